from __future__ import annotations

from pathlib import Path

import pytest

from quant.errors import UsageError
from quant.recipe import built_in, load_recipe


def test_built_in_recipes_load() -> None:
    assert built_in() == ["bf16", "int4", "int8"]
    assert all(load_recipe(name).description for name in built_in())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[formats]\nexpert = "k4"', "expert = 'k4': it only holds weights copied from a source"),
        ('[formats]\nexpert = "q9"', "expert = 'q9': no such format"),
        ('[formats]\nexpert = ["q4"]', "no such format"),
        ('[formats]\nexperts = "q4"', "unknown role 'experts'"),
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
