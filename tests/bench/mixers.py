"""How near the token mixers come to what this machine can do: attention of each kind, the indexer, the delta rule.

    python -m tests.bench.mixers [NAME ...] [--threads 2] [--rounds 7]

NAME picks rows by the beginning of their name. A row's rate is in billions of multiply-adds a second, of which its
share of a loop that does nothing else in registers, or in GB/s, of which its share of a plain sum over as many bytes.
Both roofs are measured in turns with the row, on the same threads; medians. Caches are in turn those of several
layers, so that none of them is in the processor's own cache.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median
from time import perf_counter

import numpy as np

from cpu_runtime.kernels import delta
from cpu_runtime.kernels.attention import attend
from cpu_runtime.kernels.cpu import LANES, LOWERING
from cpu_runtime.kernels.indexer import index_scores, top_positions
from cpu_runtime.kernels.pages import PAGE
from cpu_runtime.kernels.roof import SLICES, SUMS, WORDS, f32_products, sum_words
from quant.jit import set_threads

FRESH = 160 << 20  # bytes of caches to go through before one is read again: many times any cache
TURNS = 20000  # of the loop in registers: some 20 ms
F16 = np.dtype(np.float16)


@dataclass(frozen=True)
class Row:
    """`work(n)` is done for the n-th layer of `layers`; `products` or `bytes` it takes, or neither."""

    name: str
    work: Callable[[int], object]
    layers: int = 1
    products: float = 0
    bytes: float = 0


def f32(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def caches(heads: int, size: int, positions: int, sets: int) -> list[np.ndarray]:
    """`sets` times pages of float16 for so many positions."""
    pages = -(-positions // PAGE)
    one = (0.5 * f32(pages, heads, PAGE, size)).astype(F16)
    return [one.copy() for _ in range(sets)]


def attention(
    name: str, tokens: int, depth: int, heads: int, kv_heads: int, size: int, value: int, shared: bool
) -> Row:
    """T tokens after `depth` others; `shared`: values are the beginnings of the keys' rows, as latents' are."""
    positions = depth + tokens
    one = positions * kv_heads * F16.itemsize * (size if shared else size + value)
    layers = max(1, min(16, -(-FRESH // one))) if tokens == 1 else 1
    keys = caches(kv_heads, size, positions, layers)
    values = keys if shared else caches(kv_heads, value, positions, layers)
    q, out = f32(tokens, heads, size), np.empty((tokens, heads, value), np.float32)
    scale = np.float32(size**-0.5)
    pairs = tokens * depth + tokens * (tokens + 1) // 2
    reads = tokens == 1 and kv_heads > 1  # so few heads share a key that reading it binds
    return Row(
        name,
        lambda n: attend(q, keys[n], values[n], depth, scale, out),
        layers,
        0 if reads else pairs * heads * (size + value),
        one if reads else 0,
    )


def indexer(tokens: int, depth: int) -> Row:
    heads, size, positions = 64, 128, depth + tokens
    pages = caches(1, size, positions, 1)[0]
    q, weights, out = f32(tokens, heads, size), f32(tokens, heads), np.empty((tokens, positions), np.float32)
    name = f"indexer, 64 heads of 128, {tokens} at {depth}"
    return Row(
        name, lambda n: index_scores(q, weights, pages, positions, out), products=tokens * positions * heads * size
    )


def selection(depth: int) -> Row:
    scores, best = f32(depth), np.empty(2048, np.int64)
    return Row(f"top 2048 of {depth}", lambda n: top_positions(scores, 2048, best), bytes=scores.nbytes)


def gated_delta(tokens: int) -> Iterator[Row]:
    """The parts of Qwen3.5-35B-A3B's layer."""
    key_heads, heads, size = 16, 32, 128
    layers = 1 if tokens > 1 else 30
    width = 2 * key_heads * size + heads * size
    x, mixed, weight = f32(tokens, width), f32(tokens, width), f32(4, width)
    conv = np.zeros((3, width), np.float32)
    yield Row(f"delta conv, {tokens}", lambda n: delta.causal_conv_silu(x, weight, conv, mixed))
    a, decay, beta, per_head = f32(tokens, heads), f32(tokens, heads), f32(tokens, heads), f32(heads)
    yield Row(f"delta gates, {tokens}", lambda n: delta.delta_gates(a, a, per_head, per_head, decay, beta))
    q, k = (mixed[:, i * 2048 : (i + 1) * 2048].reshape(tokens, key_heads, size) for i in range(2))
    v = mixed[:, 4096:].reshape(tokens, heads, size)
    states = [f32(heads, size, size) for _ in range(layers)]
    delta.delta_gates(a, a, per_head, per_head, decay, beta)
    out, normed, z, norm = f32(tokens, heads, size), f32(tokens, heads, size), f32(tokens, heads, size), f32(size)
    yield Row(
        f"delta rule, 32 heads of 128 x 128, {tokens}",
        lambda n: delta.gated_delta(q, k, v, decay, beta, states[n], out),
        layers,
        0 if tokens == 1 else 4 * tokens * heads * size * size,
        2 * states[0].nbytes if tokens == 1 else 0,
    )
    yield Row(f"delta norm, {tokens}", lambda n: delta.gated_norm(out, z, norm, np.float32(1e-6), normed))


def rows() -> Iterator[Row]:
    for kv_heads in (4, 8):
        for tokens in (512, 2048):
            name = f"prefill {tokens}, 16 heads of 128, {kv_heads} kv"
            yield attention(name, tokens, 0, 16, kv_heads, 128, 128, False)
    yield attention("prefill 512 at 8192, 16 heads of 128, 4 kv", 512, 8192, 16, 4, 128, 128, False)
    yield attention("prefill 512, 16 heads of 256, 2 kv", 512, 0, 16, 2, 256, 256, False)
    yield attention("prefill 512, expanded, 16 heads of 192 and 128", 512, 0, 16, 16, 192, 128, False)
    for kv_heads in (4, 8):
        for depth in (8191, 32767):
            name = f"decode at {depth + 1}, 16 heads of 128, {kv_heads} kv"
            yield attention(name, 1, depth, 16, kv_heads, 128, 128, False)
    yield attention("decode at 8192, 16 heads of 256, 2 kv", 1, 8191, 16, 2, 256, 256, False)
    yield attention("decode at 512, 16 heads of 128, 4 kv", 1, 511, 16, 4, 128, 128, False)
    yield attention("latent decode at 8192, 128 heads of 576", 1, 8191, 128, 1, 576, 512, True)
    yield attention("latent decode at 2048, 64 heads of 576", 1, 2047, 64, 1, 576, 512, True)
    yield indexer(1, 32767)
    yield indexer(64, 8128)
    yield selection(32768)
    yield from gated_delta(1)
    yield from gated_delta(512)


def timed(work: Callable[..., object], *given: object) -> float:
    start = perf_counter()
    work(*given)
    return perf_counter() - start


class Roofs:
    """What the threads can do at most, a sample at a time."""

    def __init__(self) -> None:
        self._words, self._sums = np.ones(FRESH // 8, np.int64), np.empty(SLICES, np.float32)
        self._registers = f32(SUMS, LANES), f32(LANES), f32(LANES)
        self._out = np.empty((64, SUMS, LANES), np.float32)
        self._at = 0

    def read(self, size: int) -> float:
        """GB/s of a sum over about `size` bytes, other ones each time."""
        words = min(size // (8 * WORDS) * WORDS, self._words.size)
        self._at = self._at + words if self._at + 2 * words <= self._words.size else 0
        return 8e-9 * words / timed(sum_words, self._words[self._at : self._at + words], self._sums)

    def products(self) -> float:
        """Billions of multiply-adds a second in registers."""
        return 1e-9 * TURNS * self._out.size / timed(f32_products, *self._registers, TURNS, self._out)


def measure(row: Row, roofs: Roofs, rounds: int) -> str:
    """A line of the table."""
    took, peak = [], []
    for _ in range(rounds + 1):  # the first compiles
        took += [timed(row.work, n) for n in range(row.layers)]
        peak.append(roofs.read(int(row.bytes)) if row.bytes else roofs.products())
    seconds, roof = median(took[row.layers :]), median(peak[1:])
    rate = 1e-9 * (row.bytes or row.products) / seconds
    unit = "GB/s" if row.bytes else "G madds/s"
    return f"{1000 * seconds:.3f} | " + (f"{rate:.1f} {unit} | {rate / roof:.2f} of {roof:.1f}" if rate else "|")


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    set_threads(given.threads)
    roofs = Roofs()
    print(f"{given.threads} threads, {LOWERING}\n\n| kernel | ms | rate | of the roof |\n|---|---|---|---|")
    for row in rows():
        if not given.names or row.name.startswith(tuple(given.names)):
            print(f"| {row.name} | {measure(row, roofs, given.rounds)} |", flush=True)


if __name__ == "__main__":
    main()
