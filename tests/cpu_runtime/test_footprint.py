"""What is said of a model beforehand, against what a conversion writes and what a session really holds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cpu_runtime import Engine, footprint, models
from cpu_runtime.footprint import Footprint
from quant.checkpoint import Checkpoint
from quant.config_source import ConfigSource
from quant.container import open_model
from quant.preview import preview
from quant.recipe import load_recipe
from tests.conftest import DEMO, FIXTURES, Quantized
from tests.published import PUBLISHED, WEIGHTS

CHECKPOINTS = [DEMO, *sorted(path for path in FIXTURES.iterdir() if (path / "config.json").exists())]


def from_config(config: dict, recipe: str) -> Footprint:
    plan = models.plan_for(config, ())
    return footprint.of_source(config, plan, load_recipe(recipe), ConfigSource(config, plan))


@pytest.mark.parametrize("recipe", ["int4", "bf16"])
@pytest.mark.parametrize("folder", CHECKPOINTS, ids=lambda path: path.name)
def test_sizes_are_those_that_a_conversion_writes(folder: Path, recipe: str, quantized: Quantized) -> None:
    made = quantized(folder, recipe)
    written = {path.name: path.stat().st_size for path in made.glob("*.safetensors")}
    chosen = load_recipe(recipe)
    with Checkpoint.open(folder) as checkpoint:
        plan = models.plan_for(checkpoint.config, checkpoint.names)
        from_headers = footprint.of_source(checkpoint.config, plan, chosen, checkpoint)
        sizes = preview(checkpoint, plan, chosen)
    assert from_headers.files == written
    assert from_headers.roles == {role.role: role.bytes for role in sizes.roles}
    assert footprint.of_model(open_model(made)) == from_headers
    if recipe == "int4":  # other recipes keep what the source has, which config.json tells roughly
        config = json.loads((folder / "config.json").read_text())
        assert from_config(config, recipe) == replace(from_headers, files=written)


@pytest.mark.parametrize("folder", CHECKPOINTS, ids=lambda path: path.name)
def test_caches_take_what_is_said(folder: Path, quantized: Quantized) -> None:
    with Engine.open(quantized(folder, "int4"), context=32) as engine:
        said = footprint.of_model(engine.model)
        session = engine.session()
        fixed = session.bytes
        session.advance(list(range(7)))
        assert session.bytes == said.cache_bytes(7)
        assert fixed == said.cache_bytes(0)
        assert said.number_bytes == engine.kv_dtype.itemsize
        assert said.context == engine.model_context


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_models(name: str) -> None:
    assert from_config(PUBLISHED[name], "int4").weights == WEIGHTS[name]


def test_the_numbers_of_minimax() -> None:
    """As measured on a whole model by tests.bench.full_size."""
    said = from_config(PUBLISHED["MiniMax-M2.5"], "int4")
    found = said.disk_bytes, said.always_bytes, said.routed_bytes, said.cache_bytes(32_768)
    assert [round(size / 1e9, 2) for size in found] == [131.76, 3.75, 3.98, 8.32]
    assert said.dense_bytes + said.expert_bytes + said.roles["embedding"] == sum(said.roles.values())
    # Two weights a byte and scales: 4.5 bits.
    assert said.routed_bytes == 62 * 8 * 3 * 3072 * 1536 * 9 // 16 + 62 * 8 * (
        said.records[0] - 3 * 3072 * 1536 * 9 // 16
    )
