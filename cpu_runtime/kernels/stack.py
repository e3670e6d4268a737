"""Arrays on the calling thread's stack: small ones of a kernel's own, whose sizes are known when it compiles.

From an allocator they would be taken and given back some hundred times a token. They are valid as long as the function
runs that asked for them: an `inner` one must not return them, for LLVM has others use their memory afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.np.arrayobj import populate_array
from numba.np.numpy_support import from_dtype

from cpu_runtime.kernels.vectors import operation
from quant.formats import LINE

Size = tuple[int, type]  # numbers, and their dtype


def zeros_on_stack(count: int, dtype: type) -> Any:
    """Make an operation without arguments that gives zeros, [count] of the dtype."""
    kind = _kind(dtype)

    def typing(typing_context: Any) -> Any:
        def generate(context: Any, b: ir.IRBuilder, signature: Any, values: Any) -> ir.Value:
            memory, array = _array(context, b, kind, count)
            b.store(memory.type.pointee(None), memory)
            return array

        return kind(), generate

    return operation(lambda: np.zeros(count, dtype))(typing)


def arrays_on_stack(made: Callable[..., Any], *sizes: Size) -> Any:
    """Make an operation without arguments that gives a NamedTuple of arrays of any content."""
    kinds = [_kind(dtype) for _, dtype in sizes]

    def typing(typing_context: Any) -> Any:
        def generate(context: Any, b: ir.IRBuilder, signature: Any, values: Any) -> ir.Value:
            arrays = [_array(context, b, kind, count)[1] for kind, (count, _) in zip(kinds, sizes, strict=True)]
            return context.make_tuple(b, signature.return_type, arrays)

        return types.NamedTuple(kinds, made)(), generate

    return operation(lambda: made(*(np.empty(count, dtype) for count, dtype in sizes)))(typing)


def _kind(dtype: type) -> types.Array:
    return types.Array(from_dtype(np.dtype(dtype)), 1, "C")


def _array(context: Any, b: ir.IRBuilder, kind: types.Array, count: int) -> tuple[ir.Value, ir.Value]:
    """(the memory, an array over it); at the function's beginning, so that a loop takes it but once."""
    item = context.get_data_type(kind.dtype)
    with b.goto_entry_block():
        memory = b.alloca(ir.ArrayType(item, count))
        memory.align = LINE
    size, made = context.get_abi_sizeof(item), context.make_array(kind)(context, b)
    number = context.get_constant
    populate_array(
        made,
        data=b.bitcast(memory, item.as_pointer()),
        shape=[number(types.intp, count)],
        strides=[number(types.intp, size)],
        itemsize=number(types.intp, size),
        meminfo=None,
    )
    return memory, made._getvalue()
