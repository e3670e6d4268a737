from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpu_runtime import SamplingParams
from cpu_runtime.sampling import Sampler
from quant.errors import MoeError, UsageError
from tests import reference

LOGITS = np.array([1.0, 3.0, 2.0, 3.0, -5.0, 0.5], np.float32)


def draw(
    params: SamplingParams, logits: np.ndarray = LOGITS, count: int = 400, history: tuple[int, ...] = ()
) -> set[int]:
    sampler = Sampler(params, logits.size)
    return {sampler.next(logits, history) for _ in range(count)}


def test_temperature_0_takes_the_first_of_the_likeliest() -> None:
    assert draw(SamplingParams(temperature=0)) == {1}


@pytest.mark.parametrize(
    ("filters", "left"),
    [
        ({"top_k": 2}, {1, 3}),
        ({"top_k": 3}, {1, 2, 3}),
        ({"top_p": 0.5}, {1, 3}),
        ({"top_p": 0.3}, {1}),
        ({"min_p": 0.3}, {1, 2, 3}),
        ({"min_p": 0.5}, {1, 3}),
        ({"top_k": 3, "min_p": 0.9}, {1, 3}),
        ({"temperature": 0.01}, {1, 3}),
    ],
    ids=str,
)
def test_filters(filters: dict[str, float], left: set[int]) -> None:
    assert draw(SamplingParams(**{"min_p": 0.0, "seed": 1, **filters})) == left  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [40, 700, 20_003])
@pytest.mark.parametrize("temperature", [0.05, 0.6, 1.5])
@pytest.mark.parametrize("top_k", [0, 1, 2, 20, 100, 30_000])
@pytest.mark.parametrize(("top_p", "min_p"), [(1, 0), (1, 0.05), (0.95, 0), (0.95, 0.05), (0.5, 0.9), (0.999, 1e-4)])
def test_few_are_sorted_and_none_is_missed(
    size: int, temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    logits = np.random.default_rng(size).standard_normal(size).astype(np.float32) * 3
    logits[size // 2 :: 7] = logits[size // 2]  # equals
    params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    ids, probability = Sampler(params, size).candidates(logits)
    expected, probabilities = reference.candidates(logits, temperature, top_k, top_p, min_p)
    np.testing.assert_array_equal(ids, expected)
    np.testing.assert_allclose(probability, probabilities, rtol=1e-5)


def test_frequencies_are_probabilities() -> None:
    sampler = Sampler(SamplingParams(min_p=0, seed=7, temperature=1.5), LOGITS.size)
    found = np.bincount([sampler.next(LOGITS, ()) for _ in range(20_000)], minlength=6) / 20_000
    expected = np.exp(LOGITS / 1.5) / np.exp(LOGITS / 1.5).sum()
    np.testing.assert_allclose(found, expected, atol=0.012)


def test_penalties() -> None:
    greedy = SamplingParams(temperature=0)
    assert draw(greedy.replace(repeat_penalty=2.0), history=(1,)) == {3}
    assert draw(greedy.replace(presence_penalty=1.5), history=(1, 3)) == {2}
    assert draw(greedy.replace(frequency_penalty=0.6), history=(1, 1, 3)) == {3}
    assert draw(greedy.replace(repeat_penalty=2.0, repeat_last_n=1), history=(1, 3)) == {1}


def test_the_same_seed_draws_the_same() -> None:
    def run(seed: int) -> list[int]:
        sampler = Sampler(SamplingParams(seed=seed, min_p=0), 6)
        return [sampler.next(LOGITS, ()) for _ in range(50)]

    assert run(3) == run(3) != run(4)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=40),
    st.floats(0, 5),
    st.integers(0, 50),
    st.floats(0.01, 1),
    st.floats(0, 1),
)
def test_any_logits_give_a_token(
    logits: list[float], temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, seed=0)
    values = np.array(logits, np.float32)
    assert 0 <= Sampler(params, values.size).next(values, ()) < values.size


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_no_numbers(value: float) -> None:
    with pytest.raises(MoeError, match="not a number"):
        Sampler(SamplingParams(), 6).next(np.array([1, value], np.float32), ())


@pytest.mark.parametrize(
    "wrong", [{"temperature": -1}, {"top_p": 0}, {"top_p": 2}, {"top_k": -1}, {"max_tokens": -1}, {"seed": -1}], ids=str
)
def test_parameters_out_of_range(wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        SamplingParams(**wrong)  # type: ignore[arg-type]


def test_what_a_model_advises() -> None:
    advised = SamplingParams.from_generation_config({"temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": "x"})
    assert (advised.temperature, advised.top_k, advised.top_p, advised.min_p) == (0.6, 20, 0.95, 0.05)
    assert SamplingParams.from_generation_config({"do_sample": False}).temperature == 0
