"""32 inputs of a q4 tile times one token with AVX2: each row in a 16-byte lane of its own.

PSHUFB looks 16 codes up in a table of 16 bytes for each lane. As codes lie in a tile, a lane has four rows, which may
use four codebooks: four look-ups and three selections. Turned so that a lane holds one row's group of 16 inputs, one
look-up does, in a table loaded for the two rows of a vector: 1.37 times as fast, although turning costs shuffles and a
row's sum lies in four parts until they are added at the end.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types

from cpu_runtime.kernels.lowering import I1, I8, I16, I32, call, constant, join, vector
from cpu_runtime.kernels.vectors import Vector, operation
from quant.codebooks import Q4_BOOKS
from quant.formats import LINE, ROWS

I64 = ir.IntType(64)
BYTES = vector(I8, 32)
# A lane's inputs: of a code line's low nibbles, of the next line's, then of their high nibbles.
_ORDER = [0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 12, 13, 14, 15]
_BOOKS = Q4_BOOKS.tolist()


def _meaning(w: np.ndarray, meta_at: int, codes_at: int, q: np.ndarray, x_at: int) -> np.ndarray:
    flat = w.reshape(-1)
    total = np.zeros(ROWS, np.int32)
    for g in range(2):
        meta = flat[meta_at + ROWS * g :][:ROWS].view(np.int8)
        lines = flat[codes_at + 2 * LINE * g :][: 2 * LINE].reshape(2, ROWS, 4)
        codes = np.stack((lines & 15, lines >> 4), 1).transpose(2, 0, 1, 3).reshape(ROWS, 16)
        weights = Q4_BOOKS[(meta & 3)[:, None], codes].astype(np.int32)
        total += (meta >> 2) * (weights @ q.reshape(-1)[x_at + 16 * g :][:16].astype(np.int32))
    return total


@operation(_meaning)
def row_lane_product(typing_context: Any, w: Any, meta_at: Any, codes_at: Any, q: Any, x_at: Any) -> Any:
    """Sums of 16 rows, i32: two groups' scales times the products of their 16 inputs.

    Shapes: w u8, the groups' meta bytes at `meta_at`, their four lines of codes at `codes_at` · q i8, inputs at `x_at`
    """

    def generate(context: Any, b: ir.IRBuilder, signature: Any, values: Any) -> ir.Value:
        w, q = (
            b.bitcast(context.make_array(signature.args[i])(context, b, values[i]).data, I8.as_pointer())
            for i in (0, 3)
        )
        _, meta_at, codes_at, _, x_at = values
        inputs = [_inputs(b, q, b.add(x_at, I64(16 * g))) for g in range(2)]
        eights = []
        for row in range(0, ROWS, 8):
            groups = [
                _group(
                    b,
                    w,
                    b.add(meta_at, I64(ROWS * g + row)),
                    b.add(codes_at, I64(2 * LINE * g + 4 * row)),
                    *inputs[g],
                )
                for g in range(2)
            ]
            sums = [b.add(first, second) for first, second in zip(*groups, strict=True)]
            while len(sums) > 1:
                sums = [_add_neighbours(b, x, y) for x, y in zip(sums[::2], sums[1::2], strict=True)]
            eights.append(b.ashr(sums[0], constant(I32, [2] * 8)))
        return join(b, eights)

    return Vector("i32", ROWS)(w, types.int64, types.int64, q, types.int64), generate


def _inputs(b: ir.IRBuilder, q: ir.Value, at: ir.Value) -> tuple[ir.Value, ir.Value]:
    """(16 inputs in both lanes, their sizes)."""
    few = _load(b, q, at, vector(I8, 16))
    x = b.shuffle_vector(few, few, constant(I32, _ORDER * 2))
    return x, call(b, "llvm.abs.v32i8", BYTES, x, ir.Constant(I1, 0))


def _group(
    b: ir.IRBuilder, w: ir.Value, meta_at: ir.Value, codes_at: ir.Value, x: ir.Value, size: ir.Value
) -> list[ir.Value]:
    """4 times a group's scaled sums: vector k has those of row k in its lower lane, of row k + 4 in its upper."""
    first, second = (_load(b, w, b.add(codes_at, I64(LINE * h)), BYTES) for h in range(2))
    meta = _load(b, w, meta_at, vector(I8, 8))
    scales = b.bitcast(b.sext(b.and_(meta, constant(I8, [-4] * 8)), vector(I32, 8)), BYTES)
    books = _books(b, _load(b, w, meta_at, I64))
    sums = []
    for pair in range(2):  # of rows, in each lane
        codes = _interleave(b, first, second, 4, upper=pair == 1)
        low, high = b.and_(codes, constant(I8, [15] * 32)), b.lshr(codes, constant(I8, [4] * 32))
        for one in range(2):
            k = 2 * pair + one
            weights = call(b, "llvm.x86.avx2.pshuf.b", BYTES, books[k], _interleave(b, low, high, 8, upper=one == 1))
            signed = call(b, "llvm.x86.avx2.psign.b", BYTES, weights, x)
            products = call(b, "llvm.x86.avx2.pmadd.ub.sw", vector(I16, 16), size, signed)
            scale = call(b, "llvm.x86.avx2.pshuf.b", BYTES, scales, constant(I8, [4 * k, 4 * k + 1] * 16))
            scale = b.bitcast(scale, vector(I16, 16))
            sums.append(call(b, "llvm.x86.avx2.pmadd.wd", vector(I32, 8), products, scale))
    return sums


def _books(b: ir.IRBuilder, meta: ir.Value) -> list[ir.Value]:
    """The tables of rows (k, k + 4), k = 0..3, from their 8 meta bytes: one of 16 pairs of codebooks.

    Of a pair's 32 bytes the address is 8 times 4 times its number: the former a CPU multiplies by itself.
    """
    pairs = b.module.globals.get("q4.pairs")
    if pairs is None:
        entries = [_words(_BOOKS[pair & 3] + _BOOKS[pair >> 2]) for pair in range(16)]
        pairs = ir.GlobalVariable(b.module, ir.ArrayType(I64, 64), "q4.pairs")
        pairs.linkage, pairs.global_constant, pairs.align = "internal", True, 32
        pairs.initializer = ir.Constant(pairs.type.pointee, [word for entry in entries for word in entry])
    low = b.and_(meta, I64(0x0303030303030303))
    fours = b.trunc(b.or_(b.shl(low, I64(2)), b.lshr(low, I64(28))), I32)
    found = []
    for k in range(4):
        at = b.zext(b.trunc(b.lshr(fours, I32(8 * k)), I8), I64)
        found.append(b.load(b.bitcast(b.gep(pairs, [I64(0), at]), BYTES.as_pointer())))
        found[-1].align = 32
    return found


def _words(book: list[int]) -> list[int]:
    return np.array(book, np.int8).view(np.int64).tolist()


def _interleave(b: ir.IRBuilder, x: ir.Value, y: ir.Value, width: int, *, upper: bool) -> ir.Value:
    """Elements of `width` bytes from x and y in turns, of the lower or upper half of each lane (PUNPCK)."""
    index = []
    for lane in (0, 16):
        for at in range(lane + 8 * upper, lane + 8 * upper + 8, width):
            index += [*range(at, at + width), *range(32 + at, 32 + at + width)]
    return b.shuffle_vector(x, y, constant(I32, index))


def _add_neighbours(b: ir.IRBuilder, x: ir.Value, y: ir.Value) -> ir.Value:
    return call(b, "llvm.x86.avx2.phadd.d", vector(I32, 8), x, y)


def _load(b: ir.IRBuilder, base: ir.Value, at: ir.Value, kind: ir.Type) -> ir.Value:
    loaded = b.load(b.bitcast(b.gep(base, [at]), kind.as_pointer()))
    loaded.align = 1
    return loaded
