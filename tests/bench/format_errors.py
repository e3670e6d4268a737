"""The error of each of our formats beside those of llama.cpp at as many bits, rounded by llama.cpp's own code.

    python -m tests.bench.format_errors [--weights FOLDER ...]

Needs llama-cpp-python (the extra `bench`). Weights are Gaussian rows, the matrices of the demo model, and those of any
checkpoint in safetensors given. A matrix's rows are joined until they are whole super-blocks of 256 and as wide as a
large model's, for both sides alike. Errors are 10 log10 of the weights' squares over the errors', pooled over a set, so
higher is better; no format gets importance weights.
"""

from __future__ import annotations

import argparse
import ctypes
from math import lcm
from pathlib import Path

import numpy as np

from quant.checkpoint import Checkpoint
from quant.formats import ENCODABLE, ROWS
from tests.conftest import ROOT

WIDTH = 2048  # of joined rows, at least
MOST = 1 << 20  # weights of one tensor that are looked at
# llama.cpp's format -> (its number and the name of its decoder, ours to be held to it).
PEERS = {
    "Q3_K": (11, "q3_K", ("q3",)),
    "IQ4_XS": (23, "iq4_xs", ("q4c",)),
    "Q4_K": (12, "q4_K", ("q4c", "q4")),
    "Q5_K": (13, "q5_K", ("q5",)),
    "Q6_K": (14, "q6_K", ("q6",)),
    "Q8_0": (8, "q8_0", ("q8",)),
}
DECIBELS_A_BIT = 20 * np.log10(2)


class Ggml:
    """llama.cpp's quantizers."""

    def __init__(self) -> None:
        import llama_cpp

        path = min((Path(llama_cpp.__file__).parent / "lib").glob("libggml-base.*"))
        self.library = ctypes.CDLL(str(path))
        self.library.ggml_row_size.restype = ctypes.c_size_t

    def restored(self, name: str, weights: np.ndarray) -> tuple[np.ndarray, int]:
        """(what the weights [R, C] become, bytes of it)."""
        number, decoder, _ = PEERS[name]
        rows, cols = weights.shape
        size = self.library.ggml_row_size(number, ctypes.c_int64(cols)) * rows
        stored, out = np.zeros(size, np.uint8), np.empty_like(weights)
        data, packed, back = (a.ctypes.data_as(ctypes.c_void_p) for a in (weights, stored, out))
        start, n_rows, width = ctypes.c_int64(0), ctypes.c_int64(rows), ctypes.c_int64(cols)
        self.library.ggml_quantize_chunk(number, data, packed, start, n_rows, width, None)
        getattr(self.library, f"dequantize_row_{decoder}")(packed, back, ctypes.c_int64(weights.size))
        return out, size


def joined(tensor: np.ndarray) -> np.ndarray:
    """The tensor's rows end to end in wide ones, what is left over left out."""
    cols = tensor.shape[-1]
    width = lcm(cols, 256)
    width *= -(-WIDTH // width)
    rows = min(tensor.size, MOST) // width
    return np.ascontiguousarray(tensor.reshape(-1)[: rows * width].reshape(rows, width))


def matrices(folder: Path) -> list[np.ndarray]:
    """The matrices of a checkpoint, those that join to one width end to end, in whole tiles."""
    found: dict[int, list[np.ndarray]] = {}
    with Checkpoint.open(folder) as checkpoint:
        for name in sorted(name for name in checkpoint.names if name.endswith(("weight", "_proj"))):
            if len(checkpoint.encoding(name).shape) in (2, 3):
                wide = joined(checkpoint.values(name))
                found.setdefault(wide.shape[1], []).append(wide)
    stacks = (np.concatenate(several) for several in found.values())
    return [stack[: len(stack) // ROWS * ROWS] for stack in stacks if len(stack) >= ROWS]


def errors(weights: list[np.ndarray]) -> dict[str, tuple[float, float]]:
    """(bits a weight, dB) of every format on a set."""
    ggml, found = Ggml(), {}
    total, count = sum(float((w.astype(np.float64) ** 2).sum()) for w in weights), sum(w.size for w in weights)
    for name in (*PEERS, *(ours for *_, several in PEERS.values() for ours in several)):
        lost, size = 0.0, 0
        for w in weights:
            if name in PEERS:
                back, stored = ggml.restored(name, w)
            else:
                form = ENCODABLE[name]
                back, stored = form.unpack(form.pack(w), *w.shape), form.matrix_bytes(*w.shape)
            lost, size = lost + float(((w - back).astype(np.float64) ** 2).sum()), size + stored
        found[name] = 8 * size / count, 10 * float(np.log10(total / lost))
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, nargs="*", default=[], metavar="FOLDER")
    given = parser.parse_args()
    sets = {"Gaussian": [np.random.default_rng(0).standard_normal((512, 4096), np.float32)]}
    for folder in (ROOT / "cli" / "demo", *given.weights):
        sets[folder.name] = matrices(folder)
    print("| weights | llama.cpp | bits | dB | ours | bits | dB | gain | gain at equal bits |")
    print("|---|---|---|---|---|---|---|---|---|")
    for title, weights in sets.items():
        found = errors(weights)
        for peer, (*_, several) in PEERS.items():
            for ours in several:
                (their_bits, theirs), (our_bits, mine) = found[peer], found[ours]
                gain = mine - theirs
                even = gain - DECIBELS_A_BIT * (our_bits - their_bits)
                print(
                    f"| {title} | {peer} | {their_bits:.3f} | {theirs:.2f} | {ours} | {our_bits:.3f} | {mine:.2f} "
                    f"| {gain:+.2f} | {even:+.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
