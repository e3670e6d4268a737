"""Vectors of integers inside kernels: what tiles and panels do with bytes of codes. A chapter of `vectors.py`.

spread(v)                                  each byte 4 times
low_nibbles(v)     high_nibbles(v)         v & 15, v >> 4
minus(v, n)        biased(v)               each byte less n; signed weights as `dot` wants them: plus cpu.OFFSET
even_bytes(v)      odd_bytes(v)            every other byte as int16
pair_sums(v, n)                            n times the sums of bytes 4 i, 4 i + 1, and of the rest, of 16, as int16
widened(v)                                 all bytes as int16, every four in the order 0, 2, 1, 3
fields(v, n)                               each byte >> n, other bits coming in at the top
spare_codes(a, b, c)                       bits 3 and 7 of three vectors as bits 0..2 and 4..6 of one
eighths(code, meta)                        the lowest bits: 3 of code, then one of meta
group_scales(meta, n)                      meta >> n as int16, of every other byte of spread meta
seconds(v)                                 the second of each two int16, as int32
times(x, y)                                x * y of int16, lower half
dot(acc, w, x)                             acc[r] += sum_j w[r, j] * x[r, j], j = 0..3, bytes into int32
pair_dot(acc, w, x)                        the same over j = 0, 1, int16 into int32
quad_add(acc, w, x)                        acc[k] += w[2 k] * x[2 k] + w[2 k + 1] * x[2 k + 1], int16; w unsigned
in_order(v)                                v, which stays where it is computed: LLVM moves work around it, not across
scaled_dot(acc, start, meta, n, w0, ..)    acc[r] += (meta[r] >> n) * (start[r] + dots of 4 pairs); meta is spread
nibble_dot(acc, w0, x0, ..)                acc[r] += dots of 4 pairs; every byte of w in 0..15
look_up_in(table, offset, bit)             makes look_up(code, v) = table[v >> bit, code] + offset, upper bits ignored
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types

from cpu_runtime.kernels.cpu import LOWERING, OFFSET
from cpu_runtime.kernels.lowering import I8, I16, I32, LOWERINGS, constant, join_spare, part, splat, vector
from cpu_runtime.kernels.vectors import Vector, length, operation, typed

_DOT, _SCALED_DOT, _NIBBLE_DOT, _PAIR_DOT, _QUAD_ADD, _IN_ORDER, _LOOK_UP = LOWERINGS[LOWERING]


@operation(lambda v: np.repeat(v, 4))
def spread(typing_context: Any, v: Any) -> Any:
    n = 4 * v.length

    def build(b: ir.IRBuilder, v: ir.Value) -> ir.Value:
        return b.shuffle_vector(v, ir.Constant(v.type, ir.Undefined), constant(I32, [i // 4 for i in range(n)]))

    return typed(Vector("i8", n), (v,), build)


@operation(lambda v: v & 15)
def low_nibbles(typing_context: Any, v: Any) -> Any:
    return typed(v, (v,), lambda b, v: b.and_(v, constant(I8, [15] * v.type.count)))


@operation(lambda v: (v.view(np.uint8) >> 4).view(np.int8))
def high_nibbles(typing_context: Any, v: Any) -> Any:
    return typed(v, (v,), lambda b, v: b.lshr(v, constant(I8, [4] * v.type.count)))


@operation(lambda v, n: v - np.int8(n))
def minus(typing_context: Any, v: Any, n: Any) -> Any:
    less = length(n)
    return typed(v, (v, n), lambda b, v, *_: b.sub(v, constant(I8, [less] * v.type.count)))


def _every_other(b: ir.IRBuilder, v: ir.Value, left: int) -> ir.Value:
    """The upper bytes of int16 after a shift to the left, with their sign."""
    pairs = b.bitcast(v, vector(I16, v.type.count // 2))
    n = pairs.type.count
    return b.ashr(b.shl(pairs, constant(I16, [left] * n)), constant(I16, [8] * n))


@operation(lambda v: v[::2].astype(np.int16))
def even_bytes(typing_context: Any, v: Any) -> Any:
    return typed(Vector("i16", v.length // 2), (v,), lambda b, v: _every_other(b, v, 8))


@operation(lambda v: v[1::2].astype(np.int16))
def odd_bytes(typing_context: Any, v: Any) -> Any:
    return typed(Vector("i16", v.length // 2), (v,), lambda b, v: _every_other(b, v, 0))


@operation(lambda v: v.reshape(-1, 4)[:, [0, 2, 1, 3]].reshape(-1).astype(np.int16))
def widened(typing_context: Any, v: Any) -> Any:
    order = [i + k for i in range(0, v.length, 4) for k in (0, 2, 1, 3)]
    to = Vector("i16", v.length)
    return typed(to, (v,), lambda b, v: b.sext(b.shuffle_vector(v, v, constant(I32, order)), to.llvm))


def _pair_sums_meaning(v: np.ndarray, n: int) -> np.ndarray:
    return (n * v.reshape(-1, 4, 2, 2).sum((1, 3), dtype=np.int32)).astype(np.int16).reshape(-1)


@operation(_pair_sums_meaning)
def pair_sums(typing_context: Any, v: Any, n: Any) -> Any:
    factor, count = length(n), v.length // 8

    def build(b: ir.IRBuilder, v: ir.Value, *_: ir.Value) -> ir.Value:
        sums = b.sext(v, vector(I16, v.type.count))
        sums = b.add(part(b, sums, 0, v.type.count // 2, 2), part(b, sums, 1, v.type.count // 2, 2))
        total = None
        for quad in range(4):
            index = [8 * sixteen + 2 * quad + j for sixteen in range(count // 2) for j in range(2)]
            some = b.shuffle_vector(sums, sums, constant(I32, index))
            total = some if total is None else b.add(total, some)
        return b.mul(total, constant(I16, [factor] * count))

    return typed(Vector("i16", count), (v, n), build)


@operation(lambda v, n: (v.view(np.uint16) >> np.uint16(n)).view(np.int8))
def fields(typing_context: Any, v: Any, n: Any) -> Any:
    pairs = vector(I16, v.length // 2)

    def build(b: ir.IRBuilder, v: ir.Value, n: ir.Value) -> ir.Value:
        return b.bitcast(b.lshr(b.bitcast(v, pairs), splat(b, b.trunc(n, I16), pairs.count)), v.type)

    return typed(v, (v, types.intp), build)


@operation(
    lambda a, b, c: (
        ((a & -120).view(np.uint8) >> 3) | ((b & -120).view(np.uint8) >> 2) | ((c & -120).view(np.uint8) >> 1)
    ).view(np.int8)
)
def spare_codes(typing_context: Any, a: Any, b: Any, c: Any) -> Any:
    return typed(a, (a, b, c), join_spare)


@operation(lambda code, meta: (code & 7) | (meta & 1) << 3)
def eighths(typing_context: Any, code: Any, meta: Any) -> Any:
    def build(b: ir.IRBuilder, code: ir.Value, meta: ir.Value) -> ir.Value:
        three, one, seven = (constant(I8, [n] * code.type.count) for n in (3, 1, 7))
        return b.or_(b.and_(code, seven), b.shl(b.and_(meta, one), three))

    return typed(code, (code, meta), build)


@operation(lambda meta, n: (meta[::2] >> n).astype(np.int16))
def group_scales(typing_context: Any, meta: Any, n: Any) -> Any:
    pairs, less = vector(I16, meta.length // 2), length(n)

    def build(b: ir.IRBuilder, meta: ir.Value, *_: ir.Value) -> ir.Value:
        return b.ashr(b.bitcast(meta, pairs), constant(I16, [8 + less] * pairs.count))

    return typed(Vector("i16", pairs.count), (meta, n), build)


@operation(lambda v: v[1::2].astype(np.int32))
def seconds(typing_context: Any, v: Any) -> Any:
    to = Vector("i32", v.length // 2)

    def build(b: ir.IRBuilder, v: ir.Value) -> ir.Value:
        return b.ashr(b.bitcast(v, to.llvm), constant(I32, [16] * to.length))

    return typed(to, (v,), build)


@operation(np.multiply)
def times(typing_context: Any, x: Any, y: Any) -> Any:
    return typed(x, (x, y), lambda b, x, y: b.mul(x, y))


def _pair_dot_meaning(acc: np.ndarray, w: np.ndarray, x: np.ndarray) -> np.ndarray:
    return acc + (w.reshape(-1, 2).astype(np.int32) * x.reshape(-1, 2)).sum(1, dtype=np.int32)


@operation(_pair_dot_meaning)
def pair_dot(typing_context: Any, acc: Any, w: Any, x: Any) -> Any:
    return typed(acc, (acc, w, x), _PAIR_DOT)


def _quad_add_meaning(acc: np.ndarray, w: np.ndarray, x: np.ndarray) -> np.ndarray:
    products = w.view(np.uint8).astype(np.int32) * x
    return (acc + products.reshape(-1, 2).sum(1)).astype(np.int16)


@operation(_quad_add_meaning)
def quad_add(typing_context: Any, acc: Any, w: Any, x: Any) -> Any:
    return typed(acc, (acc, w, x), _QUAD_ADD)


@operation(lambda v: v)
def in_order(typing_context: Any, v: Any) -> Any:
    return typed(v, (v,), _IN_ORDER)


def _dot_meaning(acc: np.ndarray, w: np.ndarray, x: np.ndarray) -> np.ndarray:
    weights = (w.view(np.uint8) if OFFSET else w).reshape(-1, 4).astype(np.int32)
    return acc + (weights * x.reshape(-1, 4)).sum(1, dtype=np.int32)


@operation(_dot_meaning)
def dot(typing_context: Any, acc: Any, w: Any, x: Any) -> Any:
    return typed(acc, (acc, w, x), _DOT)


def _scaled_dot_meaning(acc: np.ndarray, start: np.ndarray, meta: np.ndarray, n: int, *pairs: np.ndarray) -> np.ndarray:
    for w, x in zip(pairs[::2], pairs[1::2], strict=True):
        start = _dot_meaning(start, w, x)
    return acc + (meta[::4] >> n).astype(np.int32) * start


@operation(_scaled_dot_meaning)
def scaled_dot(
    typing_context: Any,
    acc: Any,
    start: Any,
    meta: Any,
    n: Any,
    w0: Any,
    x0: Any,
    w1: Any,
    x1: Any,
    w2: Any,
    x2: Any,
    w3: Any,
    x3: Any,
) -> Any:
    less = length(n)

    def build(
        b: ir.IRBuilder, acc: ir.Value, start: ir.Value, meta: ir.Value, n: ir.Value, *pairs: ir.Value
    ) -> ir.Value:
        return _SCALED_DOT(b, less, acc, start, meta, *pairs)

    return typed(acc, (acc, start, meta, n, w0, x0, w1, x1, w2, x2, w3, x3), build)


def _nibble_dot_meaning(acc: np.ndarray, *pairs: np.ndarray) -> np.ndarray:
    for w, x in zip(pairs[::2], pairs[1::2], strict=True):
        acc = _dot_meaning(acc, w, x)
    return acc


@operation(_nibble_dot_meaning)
def nibble_dot(
    typing_context: Any, acc: Any, w0: Any, x0: Any, w1: Any, x1: Any, w2: Any, x2: Any, w3: Any, x3: Any
) -> Any:
    return typed(acc, (acc, w0, x0, w1, x1, w2, x2, w3, x3), _NIBBLE_DOT)


@operation(lambda v: v ^ np.int8(-OFFSET))
def biased(typing_context: Any, v: Any) -> Any:
    flip = -OFFSET  # adding 128 to a byte is flipping its top bit
    return typed(v, (v,), lambda b, v: b.xor(v, constant(I8, [flip] * v.type.count)) if OFFSET else v)


def look_up_in(table: np.ndarray, offset: int, bit: int = 0) -> Any:
    """Make look_up(code, v) for a table of 2 or 4 x 16 signed weights, which is compiled in, `offset` higher.

    The one or two bits of v from `bit` on tell its parts apart.
    """
    held = (np.asarray(table, np.int64).reshape(-1) + offset).astype(np.uint8).view(np.int8)
    parts = held.size // 16

    @operation(lambda code, v: held[16 * (v.astype(np.int64) >> bit & parts - 1) + code])
    def look_up(typing_context: Any, code: Any, v: Any) -> Any:
        return typed(code, (code, v), lambda b, code, v: _LOOK_UP(b, held.tolist(), bit, code, v))

    return look_up
