"""Operations across lanes: further letters of the alphabet in `vectors.py`, under its terms.

larger(x, y)             lane by lane the larger of two floats; not for NaN
largest_of(v)            the largest of all floats; not for NaN
sums_of(v0, v1, v2, v3)  four vectors' `sum_of`, as one vector of 4
lane(v, i)               one float of a vector
add_squares(total, v)    a float64 and the squares of all floats, in float64, halves first
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types

from cpu_runtime.kernels.lowering import I32, constant, part, vector
from cpu_runtime.kernels.vectors import Vector, operation, sum_of, typed

F64 = ir.DoubleType()
_EXACT = ("nsz",)  # float operations without flags would get the kernel's fast-math licence


def _larger(b: ir.IRBuilder, x: ir.Value, y: ir.Value) -> ir.Value:
    return b.select(b.fcmp_ordered(">", x, y), x, y)


@operation(np.maximum)
def larger(typing_context: Any, x: Any, y: Any) -> Any:
    return typed(x, (x, y), _larger)


@operation(lambda v: np.float32(v.max()))
def largest_of(typing_context: Any, v: Any) -> Any:
    def build(b: ir.IRBuilder, v: ir.Value) -> ir.Value:
        while v.type.count > 1:
            n = v.type.count // 2
            v = _larger(b, part(b, v, 0, n), part(b, v, n, n))
        return b.extract_element(v, I32(0))

    return typed(types.float32, (v,), build)


@operation(lambda *v: np.array([getattr(sum_of, "meaning", sum_of)(x) for x in v], np.float32))
def sums_of(typing_context: Any, v0: Any, v1: Any, v2: Any, v3: Any) -> Any:
    """Two vectors are halved together until all four fit one, so that there are 3 operations a sum instead of 6."""

    def added(b: ir.IRBuilder, x: ir.Value, y: ir.Value, near: list[int], far: list[int]) -> ir.Value:
        return b.fadd(*(b.shuffle_vector(x, y, constant(I32, index)) for index in (near, far)), flags=_EXACT)

    def build(b: ir.IRBuilder, *v: ir.Value) -> ir.Value:
        while v[0].type.count > 8:
            n = v[0].type.count // 2
            v = tuple(b.fadd(part(b, x, 0, n), part(b, x, n, n), flags=_EXACT) for x in v)
        quarters = [0, 1, 2, 3, 8, 9, 10, 11], [4, 5, 6, 7, 12, 13, 14, 15]
        pairs = [0, 1, 8, 9, 4, 5, 12, 13], [2, 3, 10, 11, 6, 7, 14, 15]
        sums = added(b, added(b, v[0], v[2], *quarters), added(b, v[1], v[3], *quarters), *pairs)
        return added(b, sums, sums, [0, 2, 4, 6], [1, 3, 5, 7])

    return typed(Vector("f32", 4), (v0, v1, v2, v3), build)


@operation(lambda v, i: v[i])
def lane(typing_context: Any, v: Any, i: Any) -> Any:
    return typed(types.float32, (v, types.intp), lambda b, v, i: b.extract_element(v, i))


def _add_squares_meaning(total: np.float64, v: np.ndarray) -> np.float64:
    squares = v.astype(np.float64) ** 2
    while squares.size > 1:
        squares = squares[: squares.size // 2] + squares[squares.size // 2 :]
    return np.float64(total + squares[0])


@operation(_add_squares_meaning)
def add_squares(typing_context: Any, total: Any, v: Any) -> Any:
    def build(b: ir.IRBuilder, total: ir.Value, v: ir.Value) -> ir.Value:
        wide = b.fpext(v, vector(F64, v.type.count))
        sums = b.fmul(wide, wide, flags=_EXACT)
        while sums.type.count > 1:
            n = sums.type.count // 2
            sums = b.fadd(part(b, sums, 0, n), part(b, sums, n, n), flags=_EXACT)
        return b.fadd(total, b.extract_element(sums, I32(0)), flags=_EXACT)

    return typed(types.float64, (types.float64, v), build)
