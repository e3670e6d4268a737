from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from cpu_runtime.kernels.indexer import index_scores, top_positions
from cpu_runtime.kernels.pages import PAGE, write_rows
from tests import reference


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize(("tokens", "heads", "size"), [(1, 2, 8), (3, 16, 16), (2, 32, 128)])
@pytest.mark.parametrize("positions", [1, 31, 256, 700])
def test_scores_match_their_twin(dtype: type, tokens: int, heads: int, size: int, positions: int) -> None:
    rng = np.random.default_rng(positions)
    q = rng.standard_normal((tokens, heads, size)).astype(np.float32)
    weights = rng.standard_normal((tokens, heads)).astype(np.float32)
    keys = rng.standard_normal((positions, 1, size)).astype(dtype)
    pages = np.full((positions // PAGE + 1, 1, PAGE, size), 999, dtype)
    write_rows(keys.astype(np.float32), 0, pages)
    out = np.full((tokens, positions), np.nan, np.float32)
    index_scores(q, weights, pages, positions, out)
    np.testing.assert_allclose(out, reference.index_scores(q, weights, keys[:, 0]), atol=3e-6 * size * heads**0.5)


FLOATS = st.sampled_from([0.0, -0.0, 1.0, -1.0, 1.5, 3e38, -3e38, 1e-40, -1e-40, np.inf, -np.inf])


@settings(deadline=None)
@given(arrays.arrays(np.float32, st.integers(1, 60), elements=FLOATS | st.floats(width=32, allow_nan=False)), st.data())
def test_the_best_positions_with_ties_to_the_lower(scores: np.ndarray, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, scores.size))
    found = np.empty(k, np.int64)
    top_positions(scores, k, found)
    assert found.tolist() == reference.top_positions(scores, k).tolist()
