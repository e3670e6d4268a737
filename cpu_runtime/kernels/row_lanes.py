"""A strip of 32 inputs of a tile that codes into one of several books, times one token with AVX2: a row in each lane.

PSHUFB looks 16 codes up in a table of 16 bytes for each 16-byte lane. A strip has a row's 16 bytes of codes side by
side, so that a vector's lanes hold two rows, and one look-up, in a table loaded for the two, serves a group of each.
A row's sum lies in four parts until they are added at the end.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types

from cpu_runtime.kernels.lowering import I1, I8, I16, I32, call, constant, join, join_spare, vector
from cpu_runtime.kernels.vectors import Vector, length, operation
from quant.formats import PLACES, ROWS, Coded

I64 = ir.IntType(64)
BYTES = vector(I8, 32)


def row_lane_product_in(form: Coded) -> Any:
    """Make the product for q4, for q4c, whose 32 inputs share a meta byte, or for q3, which has 6 of each 8 rows.

    It is one of those that `products.py` describes; the sums of inputs are not used.
    """
    books, bits, one_group, threes = _books(form), form.book_bits, form.group == 32, form.books.shape[1] == 8
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
            total += (meta >> bits) * (weights @ q.reshape(-1)[x_at + 16 * g :][:16].astype(np.int32))
        return total

    @operation(meaning)
    def row_lane_product(
        typing_context: Any, w: Any, meta_at: Any, codes_at: Any, q: Any, x_at: Any, sums: Any, t: Any, s: Any
    ) -> Any:
        def generate(context: Any, b: ir.IRBuilder, signature: Any, values: Any) -> ir.Value:
            w, q = (
                b.bitcast(context.make_array(signature.args[i])(context, b, values[i]).data, I8.as_pointer())
                for i in (0, 3)
            )
            _, meta_at, codes_at, _, x_at, *_ = values
            inputs = [_inputs(b, q, b.add(x_at, I64(16 * g))) for g in range(2)]
            eights = []
            for row in range(0, ROWS, 8):
                vectors = [_load(b, w, b.add(codes_at, I64(4 * stored * row + 32 * k)), BYTES) for k in range(stored)]
                if threes:
                    vectors.append(join_spare(b, *vectors))
                codes = [_low(b, vectors), _high(b, vectors)]
                at = [b.add(meta_at, I64(row if one_group else ROWS * g + row)) for g in range(2)]
                tables = [_tables(b, form.name, books, bits, _load(b, w, at[g], I64)) for g in range(2)]
                metas = [_load(b, w, at[g], vector(I8, 8)) for g in range(2)]
                scales = [None if one_group else _scales(b, meta, bits) for meta in metas]
                groups = [_group(b, codes[g], tables[g], scales[g], *inputs[g]) for g in range(2)]
                sums = [b.add(first, second) for first, second in zip(*groups, strict=True)]
                while len(sums) > 1:
                    sums = [_add_neighbours(b, x, y) for x, y in zip(sums[::2], sums[1::2], strict=True)]
                eights.append(_finished(b, sums[0], metas[0] if one_group else None, bits))
            return join(b, eights)

        return Vector("i32", ROWS)(w, types.int64, types.int64, q, types.int64, sums, t, s), generate

    return row_lane_product


def row_levels_in(form: Coded) -> Any:
    """Make levels(codes, w, meta_at, k): the levels of 16 codes each of rows k and k + 4, whose meta bytes are in w."""
    books, bits = _books(form), form.book_bits

    def meaning(codes: np.ndarray, w: np.ndarray, meta_at: int, k: int) -> np.ndarray:
        chosen = w.reshape(-1)[[meta_at + k, meta_at + k + 4]] & len(books) - 1
        return books[chosen[:, None], codes.reshape(2, 16)].reshape(-1)

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
    return np.tile(form.books, (1, 2)) if form.books.shape[1] == 8 else form.books


def _inputs(b: ir.IRBuilder, q: ir.Value, at: ir.Value) -> tuple[ir.Value, ir.Value]:
    """(16 inputs in both lanes, their sizes)."""
    few = _load(b, q, at, vector(I8, 16))
    x = b.shuffle_vector(few, few, constant(I32, [*range(16)] * 2))
    return x, call(b, "llvm.abs.v32i8", BYTES, x, ir.Constant(I1, 0))


def _scales(b: ir.IRBuilder, meta: ir.Value, bits: int) -> ir.Value:
    """2^bits times the scales of 8 rows, as bytes of int32."""
    return b.bitcast(b.sext(b.and_(meta, constant(I8, [-1 << bits] * 8)), vector(I32, 8)), BYTES)


def _finished(b: ir.IRBuilder, sums: ir.Value, meta: ir.Value | None, bits: int) -> ir.Value:
    """Sums that have been scaled 2^bits times too much, or, with meta, not yet."""
    less = constant(I32, [bits] * 8)
    return b.ashr(sums, less) if meta is None else b.mul(sums, b.ashr(b.sext(meta, sums.type), less))


def _low(b: ir.IRBuilder, vectors: list[ir.Value]) -> list[ir.Value]:
    return [b.and_(codes, constant(I8, [15] * 32)) for codes in vectors]


def _high(b: ir.IRBuilder, vectors: list[ir.Value]) -> list[ir.Value]:
    return [b.lshr(codes, constant(I8, [4] * 32)) for codes in vectors]


def _group(
    b: ir.IRBuilder,
    codes: list[ir.Value],
    tables: list[ir.Value],
    scales: ir.Value | None,
    x: ir.Value,
    size: ir.Value,
) -> list[ir.Value]:
    """A group's sums, scaled if there are scales: vector k has row k's in its lower lane, row k + 4's in its upper."""
    sums = []
    for k in range(4):
        weights = call(b, "llvm.x86.avx2.pshuf.b", BYTES, tables[k], codes[k])
        signed = call(b, "llvm.x86.avx2.psign.b", BYTES, weights, x)
        products = call(b, "llvm.x86.avx2.pmadd.ub.sw", vector(I16, 16), size, signed)
        scale: ir.Value = constant(I16, [1] * 16)
        if scales is not None:
            scale = call(b, "llvm.x86.avx2.pshuf.b", BYTES, scales, constant(I8, [4 * k, 4 * k + 1] * 16))
            scale = b.bitcast(scale, vector(I16, 16))
        sums.append(call(b, "llvm.x86.avx2.pmadd.wd", vector(I32, 8), products, scale))
    return sums


def _tables(b: ir.IRBuilder, name: str, books: np.ndarray, bits: int, meta: ir.Value) -> list[ir.Value]:
    """The tables of rows (k, k + 4), k = 0..3, from their 8 meta bytes: one of all pairs of books.

    Of a pair's 32 bytes the address is 8 times 4 times its number: the former a CPU multiplies by itself.
    """
    pairs = b.module.globals.get(name + ".pairs")
    if pairs is None:
        words = np.concatenate([(first, second) for second in books for first in books]).view(np.int64).reshape(-1)
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


def _add_neighbours(b: ir.IRBuilder, x: ir.Value, y: ir.Value) -> ir.Value:
    return call(b, "llvm.x86.avx2.phadd.d", vector(I32, 8), x, y)


def _load(b: ir.IRBuilder, base: ir.Value, at: ir.Value, kind: ir.Type) -> ir.Value:
    loaded = b.load(b.bitcast(b.gep(base, [at]), kind.as_pointer()))
    loaded.align = 1
    return loaded
