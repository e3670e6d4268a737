"""Perplexity and KL divergence: what is scored, what the numbers are, and that a text larger than memory would do."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cpu_runtime import Engine, pair, quality
from cpu_runtime.memory import process_bytes
from quant.errors import CheckpointError, UsageError
from tests import reference
from tests.conftest import DEMO, FIXTURES, ROOT, Quantized
from tests.recordings import logits

TINY = FIXTURES / "qwen3_5_per_expert"
IDS = np.random.default_rng(5).integers(0, 120, 41).tolist()


def test_windows_and_what_is_scored() -> None:
    assert quality.windows(range(50), 20) == [list(range(20)), list(range(20, 40))]
    assert quality.windows(range(50), 20, [7, 8]) == [[7, 8, *range(18)], [7, 8, *range(18, 36)]]
    assert quality.scored(512) == 255
    for size in (16, 17):
        assert quality.scored(size) == len(range(size)[size // 2 + 1 :])
    for text, size in (([1] * 19, 20), ([1] * 100, 15), ([], 16)):
        with pytest.raises(UsageError):
            quality.windows(text, size)


@pytest.mark.parametrize("vocab_rows", [1, 3, 1000])
def test_surprises_are_those_of_all_logits(
    quantized: Quantized, monkeypatch: pytest.MonkeyPatch, vocab_rows: int
) -> None:
    with Engine.open(quantized(TINY, "bf16"), context=64) as engine:
        monkeypatch.setattr(quality, "_LOGITS_BYTES", 4 * engine.vocab_size * vocab_rows)
        found = quality.surprises(engine, IDS)
        all_logits = logits(engine, np.array(IDS))[20:40]
    np.testing.assert_allclose(found, reference.surprise(all_logits, np.array(IDS[21:])), rtol=1e-6)


def test_a_comparison_is_that_of_all_logits(quantized: Quantized) -> None:
    folders = quantized(TINY, "int4"), quantized(TINY, "bf16")
    with pair.opened(*folders, context=64) as (model, base):
        assert (model.name, base.name) == (folders[0].name, folders[1].name)
        found = quality.comparison(model, base, IDS)
        expected = reference.divergence(
            logits(base, np.array(IDS))[20:40], logits(model, np.array(IDS))[20:40], np.array(IDS[21:])
        )
        same = quality.comparison(base, base, IDS)
        swapped = quality.comparison(base, model, IDS)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-9)
    assert found[:, 0].mean() > 0
    assert not same[:, 0].any()
    assert np.array_equal(swapped[:, 1], found[:, 2])


def test_a_chunk_shorter_than_the_window(quantized: Quantized, monkeypatch: pytest.MonkeyPatch) -> None:
    with Engine.open(quantized(TINY, "bf16"), context=64) as engine:
        whole = quality.surprises(engine, IDS)
        for chunk in (1, 7, 20, 21):
            monkeypatch.setattr(Engine, "chunk", chunk)
            np.testing.assert_allclose(quality.surprises(engine, IDS), whole, rtol=1e-5)


def test_estimates() -> None:
    values = np.random.default_rng(0).exponential(2.0, 20_000)
    mean, median = quality.mean(values), quality.quantile(values, 0.5)
    assert abs(mean.value - 2) < 3 * mean.error
    assert mean.error == pytest.approx(2 / math.sqrt(20_000), rel=0.03)
    assert abs(median.value - 2 * math.log(2)) < 3 * median.error
    assert median.error == pytest.approx(0.5 / 0.25 / math.sqrt(20_000), rel=0.4)  # sqrt(p (1 - p) / n) / density
    assert quality.quantile(np.array([3.0]), 0.99).value == 3
    nats = np.full(10, math.log(50))
    assert quality.perplexity(nats).value == pytest.approx(50)
    assert quality.perplexity(nats).error == pytest.approx(0)
    assert math.isfinite(quality.perplexity(np.full(3, 1e6)).value)


def test_the_error_of_a_ratio_is_that_of_pairs() -> None:
    """Two models that fail at the same tokens: each perplexity is uncertain, their ratio is not."""
    nats = np.random.default_rng(0).exponential(2.0, 1000)
    ratio, alone = quality.perplexity(nats + 0.01 - nats), quality.perplexity(nats)
    assert ratio.value == pytest.approx(math.exp(0.01))
    assert ratio.error < alone.error / 1000


def test_logits_that_are_no_numbers(quantized: Quantized, monkeypatch: pytest.MonkeyPatch) -> None:
    with Engine.open(quantized(TINY, "bf16"), context=64) as engine:
        made = engine.decoder.logits(np.zeros((3, engine.decoder.embedding.matrix.cols), np.float32))
        made[:] = np.nan
        monkeypatch.setattr(type(engine.decoder), "logits", lambda self, hidden: made[: len(hidden)])
        with pytest.raises(CheckpointError, match="not all finite"):
            quality.surprises(engine, IDS[:16])


def test_vocabularies_must_agree(quantized: Quantized) -> None:
    with (
        pytest.raises(UsageError, match="logits for"),
        pair.opened(quantized(TINY, "int4"), quantized(DEMO, "int4"), context=64),
    ):
        pass


def test_memory_is_shared(quantized: Quantized, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, int] = {}
    open_ = Engine.open

    def noted(path: Path, **options: int) -> Engine:
        given[path.name] = options["memory_bytes"]
        return open_(path, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Engine, "open", noted)
    before, total = process_bytes(), process_bytes() + 4_000_000_000
    small, large = quantized(DEMO, "int4"), quantized(DEMO, "bf16")
    with pair.opened(large, small, context=64, memory_bytes=total) as (model, base):
        assert (model.model.path, base.model.path) == (large, small)
        assert given[small.name] == pytest.approx(before + 2_000_000_000, abs=50_000_000)
        assert given[large.name] == pytest.approx(total - base.division.claimed, abs=50_000_000)


STREAMED = """
import resource, sys
from pathlib import Path
import numpy as np
from cpu_runtime import pair, quality
from cpu_runtime.experts.streamed import StreamedExperts
limit = int(sys.argv[3])
with pair.opened(Path(sys.argv[1]), Path(sys.argv[2]), context=512, memory_bytes=limit) as (model, base):
    streamed = [isinstance(engine.store, StreamedExperts) for engine in (model, base)]
    rows = quality.comparison(model, base, np.random.default_rng(0).integers(0, 32_000, 512).tolist())
print(streamed, np.isfinite(rows).all(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 <= limit)
"""


@pytest.mark.slow
def test_a_base_that_is_larger_than_memory(tmp_path: Path) -> None:
    from tests.published import MINIMAX_M25, scaled
    from tests.synth import write_model

    sizes = {"hidden_size": 2048, "intermediate_size": 1024, "num_local_experts": 64, "vocab_size": 32_000}
    config = scaled(MINIMAX_M25, num_hidden_layers=6, **sizes)
    folders = [write_model(config, tmp_path / recipe, recipe, sparse=True) for recipe in ("int4", "bf16")]
    command = [sys.executable, "-c", STREAMED, *map(str, folders), str(5_000_000_000)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.stdout == "[False, True] True True\n", result.stdout + result.stderr
