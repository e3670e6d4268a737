"""LLVM vectors as values inside kernels: the alphabet that the tiles' products are written in.

A vector has a length fixed when a kernel compiles (`n`, a literal or a global constant; 16 unless given). LLVM spreads
it over as many registers as the CPU needs. Arrays are C-contiguous; `i` counts elements of the array `a` as it is
typed (bytes in a u8 array), from its very first one, whatever its number of dimensions; nothing checks bounds.
Numba has no arrays of 16-bit floats: kernels see them as `.view(np.uint16)`.

    load_f32(a, i, n)  load_f16  load_bf16     n floats as f32, from memory of that type
    store_f32(a, i, v) store_i8  store_i16     to memory of that type; store_i32 too
    splat_f32(x, n)    splat_i32  splat_i16    n copies
    mul(x, y)  fma(x, y, z)                    x * y, and x * y + z rounded once where the CPU can
    to_f32(v)          to_i8(v)                each int as a float; each float's nearest int, even in the middle
    sum_of(v)                                  the sum of all floats, halves first
    load_i8(a, i, n)   load_i16                n bytes, n int16
    splat4(a, i, n)    splat2     splat1       4 bytes, 2 int16 or a float at a[i:], n times; splat1_i32, an int32
    prefetch(a, i)                             asks for a cache line
    prefetch_all(a, i, j)                      asks for those of a[i:j]
    settled(i)                                 i, where it stands: LLVM keeps what was asked for before it ahead of
                                               what is read at i
    apart()                                    in a `function_of_its_own`: LLVM is not to inline it either
    read_only(a)                               the same array, so that mapped and owned memory compile to one code

Each operation is declared with its NumPy meaning, which is what runs under NUMBA_DISABLE_JIT=1 and what tests hold
the compiled code to. The operations are free of fast-math licence: a sum is added in the order it is written in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.extending import intrinsic, models, register_model

from cpu_runtime.kernels.cpu import LOCALITY, LOWERING
from cpu_runtime.kernels.lowering import (
    F16,
    F32,
    I8,
    I16,
    I32,
    bf16_to_f32,
    call,
    f16_to_f32,
    part,
    splat,
    vector,
)
from quant.formats import LINE
from quant.jit import DISABLED, cpu_features

_ELEMENTS = {"i8": I8, "i16": I16, "i32": I32, "f32": F32}
# Without the instruction, LLVM calls the C library's fma for every lane.
_FMA = "llvm.fma" if LOWERING == "neon" or "fma" in cpu_features() else "llvm.fmuladd"

# Without the instruction, LLVM calls functions that Numba's programs don't have.
_HAS_F16 = LOWERING == "neon" or "f16c" in cpu_features()
# Numba gives the kernel's fast-math flags to float operations that have none; this one only forgets the sign of 0.
_EXACT = ("nsz",)


class Vector(types.Type):
    """Numba's type of a vector, for example Vector("f32", 16)."""

    def __init__(self, element: str, length: int) -> None:
        self.element = element
        self.length = length
        super().__init__(name=f"Vector({element} x {length})")

    @property
    def llvm(self) -> ir.VectorType:
        return vector(_ELEMENTS[self.element], self.length)


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Vector) -> None:
        super().__init__(manager, kind, kind.llvm)


def operation(meaning: Callable[..., Any]) -> Callable[[Callable[..., Any]], Any]:
    """Declare an intrinsic by its NumPy meaning (here) and the typing function that Numba wants (decorated)."""

    def declare(typing: Callable[..., Any]) -> Any:
        if DISABLED:
            return meaning
        made: Any = intrinsic(prefer_literal=True)(typing)
        made.meaning = meaning
        return made

    return declare


def length(n: Any) -> int:
    """The literal length that a kernel passed, or the default."""
    return n if isinstance(n, int) else n.literal_value


def typed(result: Any, given: tuple[Any, ...], build: Callable[..., ir.Value]) -> Any:
    """(signature, code generator) where build(builder, *values) gives the result; an int is an argument left out."""
    given = tuple(types.intp if isinstance(g, int) else g for g in given)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> ir.Value:
        return build(builder, *values)

    return result(*given), generate


def _flat(a: np.ndarray) -> np.ndarray:
    return np.reshape(a, -1, copy=False)


# --- memory ---


def _pointer(context: Any, b: ir.IRBuilder, kind: Any, array: ir.Value, index: ir.Value, to: ir.Type) -> ir.Value:
    data = context.make_array(kind)(context, b, array).data
    return b.bitcast(b.gep(data, [index]), to.as_pointer())


def _load(element: str, finish: Callable[[ir.IRBuilder, ir.Value], ir.Value], result: str) -> Callable[..., Any]:
    """The typing function of a load of n elements, `finish`ed into a vector of another type."""

    def typing(typing_context: Any, a: Any, i: Any, n: Any = 16) -> Any:
        count = length(n)

        def generate(context: Any, b: ir.IRBuilder, signature: Any, values: Any) -> ir.Value:
            raw = Vector(element, count).llvm
            loaded = b.load(_pointer(context, b, signature.args[0], values[0], values[1], raw))
            loaded.align = 1
            return finish(b, loaded)

        return Vector(result, count)(a, types.intp, types.intp if isinstance(n, int) else n), generate

    return typing


def _store(element: str, finish: Callable[[ir.IRBuilder, ir.Value], ir.Value]) -> Callable[..., Any]:
    def typing(typing_context: Any, a: Any, i: Any, v: Any) -> Any:
        def generate(context: Any, b: ir.IRBuilder, signature: Any, values: Any) -> ir.Value:
            raw = Vector(element, v.length).llvm
            pointer = _pointer(context, b, signature.args[0], values[0], values[1], raw)
            b.store(finish(b, values[2]), pointer).align = 1
            return context.get_dummy_value()

        return types.void(a, types.intp, v), generate

    return typing


def _as_is(b: ir.IRBuilder, v: ir.Value) -> ir.Value:
    return v


def _bytes_at(a: np.ndarray, i: int, count: int) -> np.ndarray:
    flat = _flat(a)
    start = i * flat.itemsize
    return flat.view(np.uint8)[start : start + count]


def _writer(dtype: Any) -> Callable[..., None]:
    def write(a: np.ndarray, i: int, v: np.ndarray) -> None:
        raw = np.ascontiguousarray(v.astype(dtype)).view(np.uint8)
        _bytes_at(a, i, raw.size)[:] = raw

    return write


def _from_f16(b: ir.IRBuilder, v: ir.Value) -> ir.Value:
    n = v.type.count
    return b.fpext(b.bitcast(v, vector(F16, n)), vector(F32, n)) if _HAS_F16 else f16_to_f32(b, v)


def _named(name: str, typing: Callable[..., Any]) -> Callable[..., Any]:
    typing.__name__ = typing.__qualname__ = name
    return typing


load_f32 = operation(lambda a, i, n=16: _bytes_at(a, i, 4 * n).view(np.float32).copy())(
    _named("load_f32", _load("f32", _as_is, "f32"))
)
load_f16 = operation(lambda a, i, n=16: _bytes_at(a, i, 2 * n).view(np.float16).astype(np.float32))(
    _named("load_f16", _load("i16", _from_f16, "f32"))
)
load_bf16 = operation(
    lambda a, i, n=16: (_bytes_at(a, i, 2 * n).view(np.uint16).astype(np.uint32) << 16).view(np.float32)
)(_named("load_bf16", _load("i16", bf16_to_f32, "f32")))
load_i8 = operation(lambda a, i, n=16: _bytes_at(a, i, n).view(np.int8).copy())(
    _named("load_i8", _load("i8", _as_is, "i8"))
)
store_f32 = operation(_writer(np.float32))(_named("store_f32", _store("f32", _as_is)))
store_i8 = operation(_writer(np.int8))(_named("store_i8", _store("i8", _as_is)))
load_i16 = operation(lambda a, i, n=16: _bytes_at(a, i, 2 * n).view(np.int16).copy())(
    _named("load_i16", _load("i16", _as_is, "i16"))
)
store_i16 = operation(_writer(np.int16))(_named("store_i16", _store("i16", _as_is)))
store_i32 = operation(_writer(np.int32))(_named("store_i32", _store("i32", _as_is)))


@operation(lambda a, i: None)
def prefetch(typing_context: Any, a: Any, i: Any) -> Any:
    def generate(context: Any, b: ir.IRBuilder, signature: Any, values: Any) -> ir.Value:
        _ask_for(b, _pointer(context, b, signature.args[0], values[0], values[1], I8))
        return context.get_dummy_value()

    return types.void(a, types.intp), generate


def _ask_for(b: ir.IRBuilder, pointer: ir.Value) -> None:
    call(b, "llvm.prefetch.p0", ir.VoidType(), pointer, I32(0), I32(LOCALITY), I32(1))  # data, to be read


@operation(lambda a, i, j: None)
def prefetch_all(typing_context: Any, a: Any, i: Any, j: Any) -> Any:
    """One operation, as a loop of a kernel's would count references to the array in each round."""

    def generate(context: Any, b: ir.IRBuilder, signature: Any, values: Any) -> ir.Value:
        kind, (array, first, last) = signature.args[0], values
        step = ir.Constant(first.type, LINE // (kind.dtype.bitwidth // 8))
        with cgutils.for_range_slice(b, first, last, step) as (at, _):
            _ask_for(b, _pointer(context, b, kind, array, at, I8))
        return context.get_dummy_value()

    return types.void(a, types.intp, types.intp), generate


@operation(lambda i: i)
def settled(typing_context: Any, i: Any) -> Any:
    def build(b: ir.IRBuilder, i: ir.Value) -> ir.Value:
        return b.call(ir.InlineAsm(ir.FunctionType(i.type, [i.type]), "", "=r,0", side_effect=True), [i])

    return typed(types.intp, (types.intp,), build)


@operation(lambda: None)
def apart(typing_context: Any) -> Any:
    def generate(context: Any, b: ir.IRBuilder, signature: Any, values: Any) -> ir.Value:
        b.function.attributes.add("noinline")
        return context.get_dummy_value()

    return types.void(), generate


@operation(lambda a: a)
def read_only(typing_context: Any, a: Any) -> Any:
    def generate(context: Any, b: ir.IRBuilder, signature: Any, values: Any) -> ir.Value:
        context.nrt.incref(b, signature.args[0], values[0])
        return values[0]

    return a.copy(readonly=True)(a), generate


# --- copies of one value ---


@operation(lambda x, n=16: np.full(n, x, np.float32))
def splat_f32(typing_context: Any, x: Any, n: Any = 16) -> Any:
    count = length(n)
    return typed(Vector("f32", count), (types.float32, n), lambda b, x, *_: splat(b, x, count))


@operation(lambda x, n=16: np.full(n, x, np.int32))
def splat_i32(typing_context: Any, x: Any, n: Any = 16) -> Any:
    count = length(n)
    return typed(Vector("i32", count), (types.int32, n), lambda b, x, *_: splat(b, x, count))


@operation(lambda x, n=16: np.full(n, x, np.int16))
def splat_i16(typing_context: Any, x: Any, n: Any = 16) -> Any:
    count = length(n)
    return typed(Vector("i16", count), (types.int16, n), lambda b, x, *_: splat(b, x, count))


def _splat_word(element: str, in_word: int) -> Callable[..., Any]:
    """The typing function of n copies of the 4 bytes at a[i:], which are so many elements."""

    def typing(typing_context: Any, a: Any, i: Any, n: Any = 16) -> Any:
        count = length(n)
        to = Vector(element, count * in_word)

        def generate(context: Any, b: ir.IRBuilder, signature: Any, values: Any) -> ir.Value:
            word = b.load(_pointer(context, b, signature.args[0], values[0], values[1], I32))
            word.align = 1
            return b.bitcast(splat(b, word, count), to.llvm)

        return to(a, types.intp, types.intp if isinstance(n, int) else n), generate

    return typing


splat4 = operation(lambda a, i, n=16: np.tile(_bytes_at(a, i, 4).view(np.int8), n))(
    _named("splat4", _splat_word("i8", 4))
)
splat2 = operation(lambda a, i, n=16: np.tile(_bytes_at(a, i, 4).view(np.int16), n))(
    _named("splat2", _splat_word("i16", 2))
)
splat1 = operation(lambda a, i, n=16: np.tile(_bytes_at(a, i, 4).view(np.float32), n))(
    _named("splat1", _splat_word("f32", 1))
)
splat1_i32 = operation(lambda a, i, n=16: np.tile(_bytes_at(a, i, 4).view(np.int32), n))(
    _named("splat1_i32", _splat_word("i32", 1))
)


# --- lane by lane ---


def _overloaded(b: ir.IRBuilder, name: str, *args: ir.Value) -> ir.Value:
    """Call an LLVM intrinsic that exists for every vector length."""
    kind = args[0].type
    return call(b, f"{name}.v{kind.count}{'f' if kind.element == F32 else 'i'}32", kind, *args)


@operation(np.multiply)
def mul(typing_context: Any, x: Any, y: Any) -> Any:
    return typed(x, (x, y), lambda b, x, y: b.fmul(x, y, flags=_EXACT))


@operation(lambda x, y, z: (x.astype(np.float64) * y + z).astype(np.float32))
def fma(typing_context: Any, x: Any, y: Any, z: Any) -> Any:
    return typed(x, (x, y, z), lambda b, *v: _overloaded(b, _FMA, *v))


@operation(lambda v: v.astype(np.float32))
def to_f32(typing_context: Any, v: Any) -> Any:
    to = Vector("f32", v.length)
    return typed(to, (v,), lambda b, v: b.sitofp(v, to.llvm))


@operation(lambda v: np.rint(v).astype(np.int8))
def to_i8(typing_context: Any, v: Any) -> Any:
    to = Vector("i8", v.length)

    def build(b: ir.IRBuilder, v: ir.Value) -> ir.Value:
        nearest = call(b, f"llvm.rint.v{v.type.count}f32", v.type, v)
        return b.trunc(b.fptosi(nearest, vector(I32, v.type.count)), to.llvm)

    return typed(to, (v,), build)


def _sum_meaning(v: np.ndarray) -> np.float32:
    while v.size > 1:
        v = v[: v.size // 2] + v[v.size // 2 :]
    return np.float32(v[0])


@operation(_sum_meaning)
def sum_of(typing_context: Any, v: Any) -> Any:
    def build(b: ir.IRBuilder, v: ir.Value) -> ir.Value:
        while v.type.count > 1:
            n = v.type.count // 2
            v = b.fadd(part(b, v, 0, n), part(b, v, n, n), flags=_EXACT)
        return b.extract_element(v, I32(0))

    return typed(types.float32, (v,), build)
