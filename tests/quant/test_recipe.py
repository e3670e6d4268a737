from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from quant.checkpoint import Checkpoint
from quant.convert import convert
from quant.errors import UsageError
from quant.manifest_file import read_manifest
from quant.plan import Dense, Plan
from quant.recipe import Recipe, built_in, load_recipe
from tests.reference_encodings import write_checkpoint


def test_built_in_recipes_load() -> None:
    assert built_in() == ["bf16", "int3", "int4", "int4-large", "int4-small", "int8"]
    assert all(load_recipe(name).description for name in built_in())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[formats]\nexpert = "k4"', "expert = 'k4': it only holds weights copied from a source"),
        ('[formats]\nexpert = "q9"', "expert = 'q9': no such format"),
        ('[formats]\nexpert = ["q4"]', "no such format"),
        ('[formats]\nexperts = "q4"', "unknown role 'experts'"),
        ('[formats]\n"expert.side" = "q4"', "unknown role 'expert.side'"),
        ('[formats]\n"layers.x.expert" = "q4"', "unknown role 'layers.x.expert'"),
        ('[formats]\n"layers.1.side" = "q4"', "unknown role 'layers.1.side'"),
        ('[formats]\n"layers.1234.expert" = "q4"', "unknown role 'layers.1234.expert'"),
        ('[formats]\n"layers.5-2.expert" = "q4"', "layer 2 comes before layer 5"),
        ('[formats]\n"layers.0-2.expert" = "q4"\n"layers.2.expert" = "q5"', "layers.2.expert has two formats"),
        ('[formats]\n"layers.2.expert" = "q9"', "no such format"),
        ("[formats", "mine.toml"),
        ("other = 1\n[formats]", "unknown key 'other'"),
        ('description = "none"', "needs a table"),
    ],
)
def test_what_is_wrong_with_a_recipe_is_named(text: str, message: str, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text(text)
    with pytest.raises(UsageError, match="mine.toml") as caught:
        load_recipe(str(recipe))
    assert message in str(caught.value)


def test_a_part_of_an_expert_goes_before_the_expert() -> None:
    recipe = Recipe("mine", "", {"expert": "q4", "expert.down": "q6"})
    assert [recipe.format(f"expert.{part}", "BF16").name for part in ("gate", "up", "down")] == ["q4", "q4", "q6"]
    assert recipe.format("expert.down", "INT4").name == "k4"
    assert recipe.format("attention", "BF16").name == "bf16"


def test_a_layer_goes_before_all_of_them(tmp_path: Path) -> None:
    text = '[formats]\nexpert = "q4"\n"expert.down" = "q5"\n"layers.1-2.expert" = "q6"\n"layers.2.expert.up" = "q8"'
    (tmp_path / "mine.toml").write_text(text)
    recipe = load_recipe(str(tmp_path / "mine.toml"))
    found = [[recipe.format(f"expert.{part}", "BF16", n).name for part in ("up", "down")] for n in range(4)]
    assert found == [["q4", "q5"], ["q6", "q6"], ["q8", "q6"], ["q4", "q5"]]


def test_a_layer_that_is_not_there_is_refused(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "m", {"x.weight": np.ones((16, 64), np.float32)})
    plan = Plan((Dense("layers.0.x", "x.weight", "attention", (16, 64)),), ())
    with Checkpoint.open(folder) as source:
        out = convert(source, plan, Recipe("mine", "", {"layers.0.attention": "q8"}), tmp_path / "out")
        with pytest.raises(UsageError, match=r"layers\.1\.attention: the model has no such layer, its last is 0"):
            convert(source, plan, Recipe("mine", "", {"layers.1.attention": "q8"}), tmp_path / "other")
    assert read_manifest(out)["dense"]["layers.0.x"]["format"] == "q8"


def test_three_bits_are_refused_without_statistics(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "m", {"x.weight": np.ones((16, 64), np.float32)})
    plan, recipe = Plan((Dense("x", "x.weight", "attention", (16, 64)),), ()), Recipe("mine", "", {"attention": "q3"})
    with Checkpoint.open(folder) as source, pytest.raises(UsageError, match="attention = 'q3' needs stat") as caught:
        convert(source, plan, recipe, tmp_path / "out")
    assert "int4-small" in str(caught.value.hint)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    for name in set(built_in()) - {"int3"}:
        load_recipe(name).check_statistics()
