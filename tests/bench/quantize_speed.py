"""How fast a checkpoint is quantized: against llama.cpp's quantizer in CPU time, and against the drive.

    python -m tests.bench.quantize_speed [--experts 64] [--folder DIR]

One layer of MiniMax-M2, fewer experts, random weights: a bf16 checkpoint, an fp8 one, and a GGUF file in bf16.
`moe quantize` makes int4 of the checkpoints (experts in 4.53 bits, the rest in 8.5) and `llama_model_quantize` Q4_K of
the file (4.5 bits; extra `bench`), each in a process of its own, its source read from the drive anew. CPU time is that
of the whole process. The drive's rates are those of one reader, and of one writer up to the sync; at best a conversion
takes as long as the slower of its reading and its writing.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import resource
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from quant.encoding import FP8
from tests.bench.cold import forget
from tests.bench.holes import tensors
from tests.bench.llama.blocks import BF16, F32
from tests.bench.llama.gguf_model import tensors as gguf_tensors
from tests.bench.llama.gguf_model import write_tensors
from tests.checkpoints import write_safetensors
from tests.command import environment
from tests.conftest import FIXTURES
from tests.published import MINIMAX_M25, scaled
from tests.reference_encodings import bf16_bits

POOL = 64 << 20  # weights that are drawn; matrices begin anywhere in them
PIECE = 16 << 20
WRITTEN = 2 << 30  # bytes, to see how fast that goes
Q4_K_S = 14  # LLAMA_FTYPE_MOSTLY_Q4_K_S


@dataclass(frozen=True)
class Run:
    """A conversion: weights and bytes of its source, bytes of its output, and what it took."""

    weights: int
    source: int
    output: int
    seconds: float
    cpu: float


def write_source(folder: Path, config: dict[str, Any]) -> Path:
    """A checkpoint of random weights in one file."""
    random = np.random.default_rng(0)
    plain = bf16_bits(random.standard_normal(POOL, np.float32) * np.float32(0.02))
    codes = random.integers(0, 256, POOL, np.uint8) & 0xBF | 0x20  # numbers from 1/8 to 15, of either sign
    pools = {"BF16": plain.view(np.uint8), FP8: codes, "F32": np.full(POOL, 0.001, np.float32).view(np.uint8)}
    header, at = {}, 0
    widths = {"BF16": 2, FP8: 1, "F32": 4}
    for name, (dtype, shape) in tensors(config).items():
        size = prod(shape) * widths[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    folder.mkdir()
    path = folder / "model.safetensors"
    write_safetensors(path, header, b"")
    with path.open("ab") as file:
        for entry in header.values():
            start, stop = entry["data_offsets"]
            pool, left = pools[entry["dtype"]], stop - start
            while left:
                first = 4 * int(random.integers(pool.size // 8))
                piece = pool[first : first + left]
                file.write(piece.data)
                left -= piece.size
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def ours(source: Path, out: Path, weights: int = 0) -> Run:
    """`moe quantize`."""
    return _run([sys.executable, "-m", "cli", "quantize", str(source), "--out", str(out)], source, out, weights)


def theirs(source: Path, out: Path, weights: int) -> Run:
    """`llama_model_quantize`, in this module's other half."""
    command = [sys.executable, "-m", "tests.bench.quantize_speed", "--theirs", str(source), str(out)]
    return _run(command, source, out, weights)


def _run(command: list[str], source: Path, out: Path, weights: int) -> Run:
    forget(source)
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), perf_counter()
    done = subprocess.run(command, env=environment(out.parent / "home"), capture_output=True, text=True, check=False)
    took = perf_counter() - start
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: exit {done.returncode}\n{done.stderr[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Run(weights, _bytes(source), _bytes(out), took, cpu)


def _bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.iterdir()) if path.is_dir() else path.stat().st_size


def quantize_with_llama(source: str, out: str) -> None:
    """Everything to Q4_K, on as many threads as there are cores."""
    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.pure, params.nthread = Q4_K_S, True, os.cpu_count() or 1
    if llama_cpp.llama_model_quantize(source.encode(), out.encode(), ctypes.byref(params)):
        raise SystemExit("llama.cpp can't quantize it")


def read_rate(path: Path) -> float:
    """Bytes a second of a file that nothing has cached."""
    forget(path)
    buffer = bytearray(PIECE)
    start = perf_counter()
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
    return path.stat().st_size / (perf_counter() - start)


def write_rate(folder: Path) -> float:
    """Bytes a second that reach the drive."""
    piece = np.random.default_rng(0).integers(0, 256, PIECE, np.uint8).data
    start = perf_counter()
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        for _ in range(WRITTEN // PIECE):
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
        return WRITTEN / (perf_counter() - start)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experts", type=int, default=64)
    parser.add_argument("--folder", help="on the drive that is measured; the temporary folder if left out")
    parser.add_argument("--theirs", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.theirs:
        quantize_with_llama(*given.theirs)
        return
    fp8 = scaled(MINIMAX_M25, num_hidden_layers=1, num_local_experts=given.experts, vocab_size=8192)
    plain = {key: value for key, value in fp8.items() if key != "quantization_config"}
    weights = sum(prod(shape) for _, shape in tensors(plain).values())
    with tempfile.TemporaryDirectory(dir=given.folder) as place:
        scratch = Path(place)
        ours(FIXTURES / "minimax_m2_fp8", scratch / "compiled")
        ours(FIXTURES / "minimax_m2_bf16", scratch / "compiled too")
        runs: dict[str, Run] = {}
        bf16 = write_source(scratch / "bf16", plain)
        runs["moe quantize, bf16"] = ours(bf16, scratch / "ours", weights)
        rates = read_rate(bf16 / "model.safetensors"), write_rate(scratch)
        gguf = write_tensors(plain, scratch / "bf16.gguf", _in_bf16(plain))
        runs["llama_model_quantize, bf16"] = theirs(gguf, scratch / "theirs.gguf", weights)
        gguf.unlink()
        runs["moe quantize, fp8"] = ours(write_source(scratch / "fp8", fp8), scratch / "of fp8", weights)
    show(runs, *rates)


def _in_bf16(config: dict[str, Any]) -> list[Any]:
    return [tensor if tensor.form == F32 else replace(tensor, form=BF16) for tensor in gguf_tensors(config, "int4")]


def show(runs: dict[str, Run], read: float, write: float) -> None:
    """Print the table."""
    print(f"the drive reads {read / 1e9:.2f} GB/s and writes {write / 1e9:.2f} GB/s\n")
    print("| | source | output | seconds | of the drive's rate | CPU, ns a byte | ns a weight | llama.cpp's over it |")
    print("|---|---|---|---|---|---|---|---|")
    peer = runs["llama_model_quantize, bf16"]
    for name, run in runs.items():
        least = max(run.source / read, run.output / write)
        cpu = 1e9 * run.cpu / run.weights
        cells = [name, f"{run.source / 1e9:.2f} GB", f"{run.output / 1e9:.2f} GB", f"{run.seconds:.1f}"]
        cells += [f"{least / run.seconds:.2f}", f"{1e9 * run.cpu / run.source:.1f}", f"{cpu:.1f}"]
        cells += [f"{1e9 * peer.cpu / peer.weights / cpu:.2f}"]
        print("|", " | ".join(cells), "|")


if __name__ == "__main__":
    main()
