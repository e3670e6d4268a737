"""A strip of 32 inputs of a tile that codes into one of several books, times one token with AVX2: a row in each lane.

PSHUFB looks 16 codes up in a table of 16 bytes for each 16-byte lane. A strip has a row's 16 bytes of codes side by
side, so that a vector's lanes hold two rows, and one look-up, in a table loaded for the two, serves a group of each.
Levels are held LIFT higher, as in a panel of bytes and for the same reasons: an instruction multiplies them unsigned,
and 8 products of a row fit into an int16, so that rows meet their factors when only two such sums of each are left.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types

from cpu_runtime.kernels.activations import LIFT
from cpu_runtime.kernels.lowering import I8, I16, I32, call, constant, join, join_spare, splat, vector
from cpu_runtime.kernels.vectors import Vector, length, operation
from quant.formats import PLACES, ROWS, Coded

I64 = ir.IntType(64)
BYTES = vector(I8, 32)


def row_lane_product_in(form: Coded) -> Any:
    """Make the product for q4, for q4c, whose 32 inputs share a meta byte, or for q3, which has 6 of each 8 rows.

    It is one of those that `products.py` describes.
    """
    books, bits, one_group, threes = _books(form), form.book_bits, form.group == 32, form.code_bits == 3
    stored = 3 if threes else 4  # vectors of each 8 rows

    def meaning(
        w: np.ndarray, meta_at: int, codes_at: int, q: np.ndarray, x_at: int, sums: np.ndarray, t: int, s: int
    ) -> np.ndarray:
        flat, total = w.reshape(-1), np.zeros(ROWS, np.int32)
        strip = flat[codes_at:][: 2 * stored * 32].reshape(2, stored, 2, 16)
        if threes:
            spare = (strip & 0x88) >> 3
            strip = np.concatenate((strip, (spare[:, 0] | spare[:, 1] << 1 | spare[:, 2] << 2)[:, None]), axis=1)
        codes = np.stack((strip & 15, strip >> 4), 3).reshape(ROWS, 2, 16)[PLACES]
        for g in range(2):
            meta = flat[meta_at + (0 if one_group else ROWS * g) :][:ROWS].view(np.int8)
            weights = books[(meta & len(books) - 1)[:, None], codes[:, g]].astype(np.int32)
            lifted = (weights + LIFT) @ q.reshape(-1)[x_at + 16 * g :][:16].astype(np.int32)
            total += (meta >> bits) * (lifted + sums[t, s + g].sum(dtype=np.int32))
        return total

    @operation(meaning)
    def row_lane_product(
        typing_context: Any, w: Any, meta_at: Any, codes_at: Any, q: Any, x_at: Any, sums: Any, t: Any, s: Any
    ) -> Any:
        def generate(context: Any, b: ir.IRBuilder, signature: Any, values: Any) -> ir.Value:
            arrays = [context.make_array(signature.args[i])(context, b, values[i]) for i in (0, 3, 5)]
            w, q, starts = (b.bitcast(array.data, I8.as_pointer()) for array in arrays)
            _, meta_at, codes_at, _, x_at, _, t, s = values
            sixteen = b.add(b.mul(t, b.extract_value(arrays[2].shape, 1)), s)
            inputs = [_twice(b, _load(b, q, b.add(x_at, I64(16 * g)), vector(I8, 16))) for g in range(2)]
            too_much = [_load(b, starts, b.mul(b.add(sixteen, I64(g)), I64(4)), I32) for g in range(2)]
            eights = []
            for row in range(0, ROWS, 8):
                vectors = [_load(b, w, b.add(codes_at, I64(4 * stored * row + 32 * k)), BYTES) for k in range(stored)]
                if threes:
                    vectors.append(join_spare(b, *vectors))
                total = None
                for g, codes in enumerate((_low(b, vectors), _high(b, vectors))):
                    at = b.add(meta_at, I64(row if one_group else ROWS * g + row))
                    tables = _tables(b, form.name, books, bits, _load(b, w, at, I64))
                    few = b.add(_row_sums(b, tables, codes, inputs[g]), _pairs(b, splat(b, too_much[g], 8)))
                    factors = _factors(b, _load(b, w, at, vector(I8, 8)), bits)
                    dots = call(b, "llvm.x86.avx2.pmadd.wd", vector(I32, 8), few, factors)
                    total = dots if total is None else b.add(total, dots)
                eights.append(total)
            return join(b, eights)

        return Vector("i32", ROWS)(
            w, types.int64, types.int64, q, types.int64, sums, types.int64, types.int64
        ), generate

    return row_lane_product


def row_levels_in(form: Coded) -> Any:
    """Make levels(codes, w, meta_at, k): what 16 codes each of rows k and k + 4 stand for, LIFT higher.

    The rows' meta bytes are in w.
    """
    books, bits = _books(form), form.book_bits

    def meaning(codes: np.ndarray, w: np.ndarray, meta_at: int, k: int) -> np.ndarray:
        chosen = w.reshape(-1)[[meta_at + k, meta_at + k + 4]] & len(books) - 1
        return (books[chosen[:, None], codes.reshape(2, 16)] + LIFT).astype(np.int8).reshape(-1)

    @operation(meaning)
    def row_levels(typing_context: Any, codes: Any, w: Any, meta_at: Any, k: Any) -> Any:
        number = length(k)

        def generate(context: Any, b: ir.IRBuilder, signature: Any, values: Any) -> ir.Value:
            codes, data = values[0], context.make_array(signature.args[1])(context, b, values[1]).data
            meta = _load(b, b.bitcast(data, I8.as_pointer()), values[2], I64)
            return call(b, "llvm.x86.avx2.pshuf.b", BYTES, _tables(b, form.name, books, bits, meta)[number], codes)

        return codes(codes, w, types.int64, k), generate

    return row_levels


def _books(form: Coded) -> np.ndarray:
    """Of 16 levels: bit 3 of a code of q3 belongs to another."""
    return np.tile(form.books, (1, 2)) if form.code_bits == 3 else form.books


def _twice(b: ir.IRBuilder, few: ir.Value) -> ir.Value:
    """16 inputs in both lanes."""
    return b.shuffle_vector(few, few, constant(I32, [*range(16)] * 2))


def _factors(b: ir.IRBuilder, meta: ir.Value, bits: int) -> ir.Value:
    """The factors of 8 rows, each twice as int16."""
    spread = b.shuffle_vector(meta, meta, constant(I32, [i // 4 for i in range(32)]))
    return b.ashr(_pairs(b, spread), constant(I16, [8 + bits] * 16))


def _low(b: ir.IRBuilder, vectors: list[ir.Value]) -> list[ir.Value]:
    return [b.and_(codes, constant(I8, [15] * 32)) for codes in vectors]


def _high(b: ir.IRBuilder, vectors: list[ir.Value]) -> list[ir.Value]:
    return [b.lshr(codes, constant(I8, [4] * 32)) for codes in vectors]


def _row_sums(b: ir.IRBuilder, tables: list[ir.Value], codes: list[ir.Value], x: ir.Value) -> ir.Value:
    """Two int16 sums of each of 8 rows: of inputs whose number, divided by 4, leaves 0 or 1, and of the rest.

    Vector k has the codes of row k in its lower lane and of row k + 4 in its upper. The sums may wrap.
    """
    sums = []
    for k in range(4):
        levels = call(b, "llvm.x86.avx2.pshuf.b", BYTES, tables[k], codes[k])
        sums.append(call(b, "llvm.x86.avx2.pmadd.ub.sw", vector(I16, 16), levels, x))
    while len(sums) > 1:
        sums = [_add_neighbours(b, x, y) for x, y in zip(sums[::2], sums[1::2], strict=True)]
    return sums[0]


def _tables(b: ir.IRBuilder, name: str, books: np.ndarray, bits: int, meta: ir.Value) -> list[ir.Value]:
    """The tables of rows (k, k + 4), k = 0..3, from their 8 meta bytes: one of all pairs of books.

    Of a pair's 32 bytes the address is 8 times 4 times its number: the former a CPU multiplies by itself.
    """
    pairs = b.module.globals.get(name + ".pairs")
    if pairs is None:
        lifted = (books + LIFT).astype(np.int8)
        words = np.concatenate([(first, second) for second in lifted for first in lifted]).view(np.int64).reshape(-1)
        pairs = ir.GlobalVariable(b.module, ir.ArrayType(I64, words.size), name + ".pairs")
        pairs.linkage, pairs.global_constant, pairs.align = "internal", True, 32
        pairs.initializer = ir.Constant(pairs.type.pointee, words.tolist())
    low = b.and_(meta, I64(0x0101010101010101 * (len(books) - 1)))
    fours = b.trunc(b.or_(b.shl(low, I64(2)), b.lshr(low, I64(30 - bits))), I32)
    found = []
    for k in range(4):
        at = b.zext(b.trunc(b.lshr(fours, I32(8 * k)), I8), I64)
        found.append(b.load(b.bitcast(b.gep(pairs, [I64(0), at]), BYTES.as_pointer())))
        found[-1].align = 32
    return found


def _pairs(b: ir.IRBuilder, v: ir.Value) -> ir.Value:
    return b.bitcast(v, vector(I16, 16))


def _add_neighbours(b: ir.IRBuilder, x: ir.Value, y: ir.Value) -> ir.Value:
    """Pairs of int16 plus the next pair: x's in the lower half of each lane, y's in the upper."""
    x, y = b.bitcast(x, vector(I32, 8)), b.bitcast(y, vector(I32, 8))
    halves = [b.shuffle_vector(x, y, constant(I32, [i + odd for i in (0, 2, 8, 10, 4, 6, 12, 14)])) for odd in (0, 1)]
    return b.add(_pairs(b, halves[0]), _pairs(b, halves[1]))


def _load(b: ir.IRBuilder, base: ir.Value, at: ir.Value, kind: ir.Type) -> ir.Value:
    loaded = b.load(b.bitcast(b.gep(base, [at]), kind.as_pointer()))
    loaded.align = 1
    return loaded
