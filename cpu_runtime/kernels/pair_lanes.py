"""32 inputs of a q3 tile times one token with AVX2: two rows in each 16-byte lane.

As in `row_lanes.py`, whose q4 has a book of 16 levels a lane; here a lane's table holds two of 8, the books of its two
rows. So codes need half of the turning, and a row's sum lies in two parts: 1.3 times as fast as a row a lane.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types

from cpu_runtime.kernels.lowering import I1, I8, I16, I32, call, constant, join, join_spare, vector
from cpu_runtime.kernels.row_lanes import BYTES, I64, add_neighbours, interleave, load_at, scaled_bytes
from cpu_runtime.kernels.vectors import Vector, operation
from quant.codebooks import Q3_BOOKS
from quant.formats import LINE, Q3, ROWS

BITS = Q3.book_bits
_TABLE = vector(I8, 16)
# Places in a lane's table: of 8 inputs of its first row, of its second.
_SECOND = constant(I8, ([0] * 8 + [8] * 8) * 2)


def _meaning(w: np.ndarray, meta_at: int, codes_at: int, q: np.ndarray, x_at: int) -> np.ndarray:
    flat, total = w.reshape(-1), np.zeros(ROWS, np.int32)
    lines = flat[codes_at:][: 3 * LINE].reshape(3, ROWS, 4)
    spare = (lines & 0x88) >> 3
    lines = np.concatenate((lines, (spare[0] | spare[1] << 1 | spare[2] << 2)[None]))
    codes = np.stack((lines & 7, lines >> 4 & 7), 1).transpose(2, 0, 1, 3).reshape(ROWS, 2, 16)
    for g in range(2):
        meta = flat[meta_at + ROWS * g :][:ROWS].view(np.int8)
        weights = Q3_BOOKS[(meta & 7)[:, None], codes[:, g]].astype(np.int32)
        total += (meta >> BITS) * (weights @ q.reshape(-1)[x_at + 16 * g :][:16].astype(np.int32))
    return total


@operation(_meaning)
def pair_lane_product(typing_context: Any, w: Any, meta_at: Any, codes_at: Any, q: Any, x_at: Any) -> Any:
    """Sums of 16 rows, i32: two groups' scales times the products of their 16 inputs.

    Shapes: w u8, the groups' meta bytes at `meta_at`, their three lines of codes at `codes_at` · q i8, inputs at `x_at`
    """

    def generate(context: Any, b: ir.IRBuilder, signature: Any, values: Any) -> ir.Value:
        w, q = (
            b.bitcast(context.make_array(signature.args[i])(context, b, values[i]).data, I8.as_pointer())
            for i in (0, 3)
        )
        _, meta_at, codes_at, _, x_at = values
        totals: dict[int, list[ir.Value]] = {}
        for g in range(2):  # one after the other, so that few vectors are alive at a time
            inputs = _inputs(b, q, b.add(x_at, I64(16 * g)))
            for row in range(0, ROWS, 8):
                lines = [load_at(b, w, b.add(codes_at, I64(LINE * n + 4 * row)), BYTES) for n in range(2 + g)]
                codes = [b.and_(line, constant(I8, [0x77] * 32)) for line in lines]
                if g == 1:
                    codes = [codes[2], join_spare(b, *lines)]
                sums = _group(b, w, b.add(meta_at, I64(ROWS * g + row)), codes, inputs)
                totals[row] = sums if g == 0 else [b.add(x, y) for x, y in zip(totals[row], sums, strict=True)]
        eights = [b.ashr(add_neighbours(b, *totals[row]), constant(I32, [BITS] * 8)) for row in (0, 8)]
        return join(b, eights)

    return Vector("i32", ROWS)(w, types.int64, types.int64, q, types.int64), generate


def _inputs(b: ir.IRBuilder, q: ir.Value, at: ir.Value) -> list[tuple[ir.Value, ir.Value]]:
    """(inputs of low nibbles, of high nibbles), as all rows see them, each with their sizes."""
    few = load_at(b, q, at, _TABLE)
    both, found = join(b, [few, few]), []
    for first in (0, 4):
        index = [*range(first, first + 4), *range(first + 8, first + 12)]
        x = call(b, "llvm.x86.avx2.pshuf.b", BYTES, both, constant(I8, index * 4))
        found.append((x, call(b, "llvm.abs.v32i8", BYTES, x, ir.Constant(I1, 0))))
    return found


def _group(
    b: ir.IRBuilder,
    w: ir.Value,
    meta_at: ir.Value,
    codes: list[ir.Value],
    inputs: list[tuple[ir.Value, ir.Value]],
) -> list[ir.Value]:
    """8 times a group's scaled sums, of rows 0, 1 and 4, 5, and of rows 2, 3 and 6, 7, in pairs."""
    scales = scaled_bytes(b, load_at(b, w, meta_at, vector(I8, 8)), BITS)
    tables = _tables(b, load_at(b, w, meta_at, I64))
    sums = []
    for pair in range(2):
        two = interleave(b, codes[0], codes[1], 4, upper=pair == 1)
        pattern = [8 * pair + 4 * row + byte for row in range(2) for _ in range(4) for byte in range(2)]
        scale = call(b, "llvm.x86.avx2.pshuf.b", BYTES, scales, constant(I8, pattern * 2))
        total = None
        for nibble, (x, size) in enumerate(inputs):
            # What comes in from the next byte is bits 4 to 6 of a place, which count for nothing: bit 7 would.
            moved = b.bitcast(b.lshr(b.bitcast(two, vector(I16, 16)), constant(I16, [4 * nibble] * 16)), BYTES)
            places = b.or_(moved, _SECOND)
            weights = call(b, "llvm.x86.avx2.pshuf.b", BYTES, tables[pair], places)
            signed = call(b, "llvm.x86.avx2.psign.b", BYTES, weights, x)
            products = call(b, "llvm.x86.avx2.pmadd.ub.sw", vector(I16, 16), size, signed)
            scaled = call(b, "llvm.x86.avx2.pmadd.wd", vector(I32, 8), products, b.bitcast(scale, vector(I16, 16)))
            total = scaled if total is None else b.add(total, scaled)
        sums.append(total)
    return sums


def _tables(b: ir.IRBuilder, meta: ir.Value) -> list[ir.Value]:
    """The tables of rows 0, 1 and 4, 5 and of rows 2, 3 and 6, 7 from their 8 meta bytes: each of 64 pairs of books."""
    pairs = b.module.globals.get("q3.pairs")
    if pairs is None:
        books = Q3_BOOKS.tolist()
        entries = [constant(I8, first + second) for second in books for first in books]
        pairs = ir.GlobalVariable(b.module, ir.ArrayType(_TABLE, 64), "q3.pairs")
        pairs.linkage, pairs.global_constant, pairs.align = "internal", True, 16
        pairs.initializer = ir.Constant(pairs.type.pointee, entries)
    low = b.and_(meta, I64(0x0707070707070707))
    both = b.and_(b.or_(low, b.lshr(low, I64(5))), I64(0x003F003F003F003F))
    offsets = b.shl(both, I64(4))  # a table has 16 bytes
    base = b.bitcast(pairs, I8.as_pointer())
    found = []
    for k in range(4):
        offset = b.zext(b.trunc(b.lshr(offsets, I64(16 * k)), I16), I64)
        found.append(b.load(b.bitcast(b.gep(base, [offset]), _TABLE.as_pointer())))
        found[-1].align = 16
    return [join(b, [found[0], found[2]]), join(b, [found[1], found[3]])]
