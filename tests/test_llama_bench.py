"""The parts of the comparison with llama.cpp that can be checked without it: blocks, files, an LRU's hits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.bench.half_memory import lru_hit_rate
from tests.bench.llama.bench import CONFIGS
from tests.bench.llama.blocks import BLOCKS, nbytes, rows
from tests.bench.llama.gguf_model import tensors, write_gguf
from tests.published import scaled

COLS = 512


@pytest.mark.parametrize("form", BLOCKS)
def test_blocks_are_weights_of_the_right_size(form: str) -> None:
    gguf = pytest.importorskip("gguf")
    drawn = rows(form, 64, COLS, 0.25, np.random.default_rng(0))
    assert drawn.nbytes == nbytes(form, (64, COLS))
    stored = drawn.view(np.float32) if form == "F32" else drawn
    weights = gguf.quants.dequantize(stored, gguf.GGMLQuantizationType[form])
    assert weights.shape == (64, COLS)
    assert abs(weights.std() - 0.25) < 0.01
    assert abs(weights.mean()) < 0.01


@pytest.mark.parametrize("arch", CONFIGS)
def test_a_file_holds_the_tensors_of_the_plan(arch: str, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    experts = {"num_local_experts": 8} if arch == "minimax_m2" else {"num_experts": 8}
    config = scaled(CONFIGS[arch], num_hidden_layers=4, vocab_size=512, **experts)
    expected = {tensor.name: tensor for tensor in tensors(config, "int4")}
    reader = gguf.GGUFReader(write_gguf(config, tmp_path / "model.gguf"))
    assert {tensor.name for tensor in reader.tensors} == set(expected)
    for tensor in reader.tensors:
        one = expected[tensor.name]
        assert tensor.tensor_type.name == one.form
        assert tuple(reversed(tensor.shape.tolist())) == one.shape
        assert tensor.n_bytes == one.bytes
    last = reader.tensors[-1]
    assert (tmp_path / "model.gguf").stat().st_size == -(-(last.data_offset + last.n_bytes) // 32) * 32


def test_an_lru_of_all_layers() -> None:
    traces = [[np.array([[0, 1]]), np.array([[1, 2]]), np.array([[0, 1]])]] * 2
    assert lru_hit_rate(traces, 6, first=1) == 6 / 8  # expert 2 is new in both layers
    assert lru_hit_rate(traces, 1, first=0) == 0
