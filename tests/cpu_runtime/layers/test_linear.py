"""Linear layers side by side: one product where matrices lie end to end, the same bits wherever they lie."""

from __future__ import annotations

import numpy as np
import pytest

from cpu_runtime.layers.linear import Activations, Linear, SideBySide, end_to_end
from quant.formats import ENCODABLE, Matrix

COLS = 192


def matrices(formats: list[str], rows: list[int]) -> list[Matrix]:
    """Matrices one after another in one piece of memory."""
    rng = np.random.default_rng(0)
    packed = [
        ENCODABLE[name].pack(rng.standard_normal((n, COLS), np.float32)) for name, n in zip(formats, rows, strict=True)
    ]
    memory, made, at = np.concatenate([tiles.reshape(-1) for tiles in packed]), [], 0
    for name, n, tiles in zip(formats, rows, packed, strict=True):
        made.append(Matrix(ENCODABLE[name], n, COLS, memory[at : at + tiles.size].reshape(tiles.shape)))
        at += tiles.size
    return made


def activations(tokens: int) -> Activations:
    return Activations(np.random.default_rng(1).standard_normal((tokens, COLS), np.float32))


@pytest.mark.parametrize("tokens", [1, 3])
@pytest.mark.parametrize("formats", [["q8", "q8", "q8"], ["q8", "q4", "q8"]], ids=str)
def test_side_by_side_is_one_by_one(formats: list[str], tokens: int) -> None:
    linears = [Linear(matrix) for matrix in matrices(formats, [32, 7, 40])]
    x = activations(tokens)
    for linear, answer in zip(linears, SideBySide(*linears)(x), strict=True):
        assert answer.shape == (tokens, linear.matrix.rows)
        assert np.array_equal(answer, linear(x))


def test_end_to_end_is_only_what_follows_one_another() -> None:
    a, b, c = matrices(["q8"] * 3, [32, 7, 40])
    whole = end_to_end([a, b, c])
    assert whole is not None
    assert whole.rows == 32 + 16 + 48
    assert np.array_equal(whole.tiles, np.concatenate([a.tiles, b.tiles, c.tiles]))
    assert end_to_end([a, c]) is None
    assert end_to_end([b, a]) is None
    assert end_to_end(matrices(["q8", "q4"], [16, 16])) is None


def test_layers_that_do_more_are_asked_one_by_one() -> None:
    asked = []

    class Watched(Linear):
        def __call__(self, x: Activations) -> np.ndarray:
            asked.append(self.matrix.rows)
            return super().__call__(x)

    SideBySide(*map(Watched, matrices(["q8"] * 2, [32, 16])))(activations(1))
    assert asked == [32, 16]
