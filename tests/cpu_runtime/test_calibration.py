"""Calibration: a matrix is seen to read what it reads in any prompt, in whatever pieces, wherever experts come from."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import quant.statistics_writer
from cpu_runtime import Engine, plan_for, quality
from cpu_runtime.calibration import Seen, calibrate, held_bytes
from cpu_runtime.experts.streamed import StreamedExperts
from quant.errors import CheckpointError, UsageError
from quant.safetensors_file import read_header
from quant.statistics_layout import FACTS, tensors
from quant.statistics_writer import StatisticsWriter
from tests import reference_calibration as reference
from tests.conftest import DEMO, FIXTURES, Quantized
from tests.recordings import CHECKPOINTS

CLOSE = {"rtol": 2e-3, "atol": 1e-6}  # shares are fp16, and float32 sums are taken in another order


def collected(
    engine: Engine,
    windows: Sequence[Sequence[int]],
    path: Path,
    on_progress: Callable[[int], None] = lambda done: None,
    text: str = "1",
) -> Seen:
    """Statistics of these windows, written."""
    plan = plan_for(engine.config, ())
    with StatisticsWriter(path, plan, dict.fromkeys(FACTS, "1") | {"text": text}) as out:
        return calibrate(engine, windows, out, on_progress)


def read(path: Path) -> dict[str, np.ndarray]:
    """Every tensor of a file, by safetensors' own reader."""
    from safetensors.numpy import load_file

    return dict(load_file(path))


def windows_of(engine: Engine, count: int, size: int) -> list[list[int]]:
    ids = np.random.default_rng(3).integers(0, min(engine.vocab_size, 110), count * size)
    return quality.windows(ids.tolist(), size)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_every_matrix_reads_what_it_reads_in_a_prompt(quantized: Quantized, name: str, tmp_path: Path) -> None:
    with Engine.open(quantized(FIXTURES / name, "bf16"), context=32) as engine:
        windows = windows_of(engine, 3, 20)
        seen = collected(engine, windows, tmp_path / "s")
        found = read(tmp_path / "s")
        dense, experts = reference.rows_read(engine, windows)
        expected = tensors(plan_for(engine.config, ()))
    assert found.keys() == expected.keys()
    for tensor in (name for name in expected if ".experts." not in name):
        if tensor in dense:
            np.testing.assert_allclose(found[tensor], reference.mean_squares(dense[tensor]), **CLOSE)
        else:
            assert ".indexer." in tensor or ".index." in tensor, f"nothing was seen to read {tensor}"
            assert not found[tensor].any()
    picks = 0
    for layer, rows in experts.items():
        at = f"layers.{layer}.experts"
        tokens = found[f"{at}.tokens"]
        picks += tokens.size
        for expert, count in enumerate(tokens):
            for part in ("gate", "down"):
                own = found[f"{at}.{part}"][expert].astype(np.float64) * found[f"{at}.{part}.mean"][expert]
                if count:
                    assert len(np.concatenate(rows[f"{expert}.{part}"])) == count
                    np.testing.assert_allclose(own, reference.mean_squares(rows[f"{expert}.{part}"]), **CLOSE)
                else:
                    assert f"{expert}.{part}" not in rows
                    assert not own.any()
    assert seen.experts == picks


def test_pieces_and_streamed_experts_change_nothing(quantized: Quantized, tmp_path: Path) -> None:
    folder = quantized(DEMO, "int8")
    with Engine.open(folder, context=64) as engine:
        windows = windows_of(engine, 4, 50)
        collected(engine, windows, tmp_path / "whole")
        engine.division = replace(engine.division, chunk=16)
        collected(engine, windows, tmp_path / "pieces")
        plain = engine.store
        engine.store = StreamedExperts(engine.model, 6)
        blocks = [
            replace(b, feed_forward=replace(b.feed_forward, store=engine.store))  # type: ignore[type-var]
            for b in engine.decoder.blocks
        ]
        engine.decoder = replace(engine.decoder, blocks=blocks)
        collected(engine, windows, tmp_path / "streamed")
        assert engine.store.statistics.hits == 0, "a layer's experts are read once, whatever the text's length"
        plain.close()
    assert (tmp_path / "streamed").read_bytes() == (tmp_path / "pieces").read_bytes()
    whole, found = read(tmp_path / "whole"), read(tmp_path / "pieces")
    for name, values in whole.items():
        np.testing.assert_allclose(found[name], values, rtol=0.02, atol=1e-3 * float(values.max()), err_msg=name)


def test_memory_is_what_is_said(quantized: Quantized, tmp_path: Path) -> None:
    with Engine.open(quantized(DEMO, "int8"), context=64) as engine:
        engine.division = replace(engine.division, chunk=64)
        hidden = engine.decoder.embedding.matrix.cols
        peaks = []
        for count in (20, 200):
            windows = windows_of(engine, count, 64)
            collected(engine, windows, tmp_path / "s")  # compiled, and what is kept is kept
            (tmp_path / "s").unlink()
            tracemalloc.start()
            collected(engine, windows, tmp_path / "s")
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
            (tmp_path / "s").unlink()
    further = held_bytes(180 * 64, hidden)
    assert 0.9 * further < peaks[1] - peaks[0] < 1.25 * further, "ids and routes are small beside hidden states"


def stopped(engine: Engine, windows: Sequence[Sequence[int]], path: Path, layer: int) -> None:
    """The same, broken off in a layer, as a kill would."""

    def stop(done: int) -> None:
        if done > layer * len(windows) * len(windows[0]):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collected(engine, windows, path, stop)


@pytest.mark.parametrize("name", ["demo", "deepseek_v3_fp8"])  # one begins with a layer without experts
def test_what_was_stopped_goes_on_after_the_last_layer_kept(
    quantized: Quantized, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with Engine.open(quantized(DEMO if name == "demo" else FIXTURES / name, "bf16"), context=32) as engine:
        windows = windows_of(engine, 3, 20)
        seen, layers = collected(engine, windows, tmp_path / "whole"), len(engine.decoder.blocks)
        monkeypatch.setattr(quant.statistics_writer, "KEEP_SECONDS", 0)
        for layer in range(1, layers):
            stopped(engine, windows, tmp_path / "s", layer)
            told: list[int] = []
            if layer == layers - 1:
                assert collected(engine, windows, tmp_path / "s", told.append) == seen
                assert told[0] > 60 * layer, "layers that were kept are not computed again"
        assert (tmp_path / "s").read_bytes() == (tmp_path / "whole").read_bytes()
        assert not (tmp_path / "s.partial").exists()

        stopped(engine, windows, tmp_path / "other", 2)
        told.clear()
        collected(engine, windows, tmp_path / "other", told.append, text="another")
        assert told[0] < 60, "what was kept of another text is of no use"

        stopped(engine, windows, tmp_path / "damaged", 2)
        kept = tmp_path / "damaged.partial" / "reached.safetensors"
        kept.write_bytes(kept.read_bytes()[:-8])
        with pytest.raises(CheckpointError, match="is not what calibrating keeps") as error:
            collected(engine, windows, tmp_path / "damaged")
        assert str(kept.parent) in str(error.value.hint)


def test_what_can_not_be_calibrated(quantized: Quantized, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Engine.open(quantized(FIXTURES / "minimax_m2_bf16", "bf16"), context=32) as engine:
        with pytest.raises(UsageError, match="outside the vocabulary"):
            collected(engine, [[1, 2, engine.vocab_size]], tmp_path / "s")
        nothing: Any = lambda x: np.full((len(x.x), engine.decoder.norm.weight.size), np.nan)  # noqa: E731
        first = replace(engine.decoder.blocks[0], feed_forward=nothing)
        monkeypatch.setattr(engine, "decoder", replace(engine.decoder, blocks=[first, *engine.decoder.blocks[1:]]))
        with pytest.raises(CheckpointError, match="layer 0 answers is not finite"):
            collected(engine, windows_of(engine, 1, 20), tmp_path / "s")
    assert not list(tmp_path.iterdir()), "whole or not at all"


def test_the_file_is_safetensors_by_our_reader_too(quantized: Quantized, tmp_path: Path) -> None:
    with Engine.open(quantized(FIXTURES / "minimax_m2_bf16", "bf16"), context=32) as engine:
        collected(engine, windows_of(engine, 1, 20), tmp_path / "s")
    found, metadata = read_header(tmp_path / "s")
    assert metadata == {"format": "moe-statistics 1", **dict.fromkeys(FACTS, "1")}
    assert {name: info.shape for name, info in found.items()} == {n: v.shape for n, v in read(tmp_path / "s").items()}
