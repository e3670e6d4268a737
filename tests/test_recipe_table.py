"""What the table of recipes compares: an exact model's rounded weights are those that the quantized one stands for."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from quant.container import open_model
from quant.recipe import load_recipe
from tests.bench.recipe_table import ours, rounded
from tests.conftest import DEMO, Quantized, quantize


def test_weights_alone_are_those_of_the_quantized_model(quantized: Quantized, tmp_path: Path) -> None:
    bits = rounded(DEMO, load_recipe("int4-large"), ours, tmp_path / "rounded")
    assert 5 < bits < 6
    exact = open_model(quantize(tmp_path / "rounded", "bf16", tmp_path / "exact"))
    source, stored = open_model(quantized(DEMO, "bf16")), open_model(quantized(DEMO, "int4-large"))
    for name in ("layers.0.delta.qkv", "layers.3.attn.q", "layers.7.moe.shared.down"):
        assert np.array_equal(exact.matrix(name).unpack(), stored.matrix(name).unpack())
    for name in ("embed", "head", "layers.0.moe.router"):
        assert np.array_equal(exact.matrix(name).unpack(), source.matrix(name).unpack())
    for layer in (0, 7):
        one, other = exact.expert_layer(layer), stored.expert_layer(layer)
        for part in ("gate", "up", "down"):
            assert np.array_equal(_experts(one, part), _experts(other, part))


def _experts(layer: object, part: str) -> np.ndarray:
    entry = layer.parts[part]  # type: ignore[attr-defined]
    size = entry.format.tile_bytes(entry.cols)
    tiles = layer.records[3, entry.offset : entry.offset + entry.bytes].reshape(-1, size)  # type: ignore[attr-defined]
    return entry.format.unpack(tiles, entry.rows, entry.cols)
