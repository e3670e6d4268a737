"""Compiled kernels on disk, for `quant/jit.py`: when one is out of date, and loading it without a compiler.

Numba's own way takes three times as long: before each kernel it brings in everything that code can be compiled from,
80 modules, and with the machine code it reads the kernel's intermediate code, in case another one inlines it. Here
kernels inline `inner` functions only, which are not kept on disk. It goes by parts that Numba keeps to itself, so that
versions of it in which they have not been seen to fit load in their own way.
"""

from __future__ import annotations

import hashlib
from functools import cache, partial
from pathlib import Path
from typing import Any

import numba
from llvmlite import binding
from numba.core.compiler import CompileResult
from numba.core.runtime import nrt

_SHARED = ("codebooks.py", "formats.py", "half.py", "jit.py")  # sources beside this one that are compiled in
_RUNTIME: Any = nrt  # what is wanted of it is a part that it keeps to itself
_FITS = numba.__version__.startswith("0.68.")


def keep(dispatcher: Any) -> Any:
    """Make a kernel's cache depend on every file its inlined callees and constants may come from, and quick to load.

    Numba alone looks at the kernel's own file, and would go on running the old code of a kernel called from it.
    """
    kept = dispatcher._cache
    kept._cache_file._source_stamp = _stamp(Path(dispatcher.py_func.__code__.co_filename).parent)
    if _FITS:
        kept.load_overload = partial(_load, kept)
    return dispatcher


@cache
def _stamp(folder: Path) -> str:
    """A digest of the sources in a kernel's folder, and of those whose constants kernels everywhere hold."""
    here = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted({*folder.glob("*.py"), *(here / name for name in _SHARED)}):
        if path.exists():
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _load(kept: Any, signature: Any, target: Any) -> CompileResult | None:
    """The kernel of this signature, ready to run; None where the cache has none, and a compiler has to be set up."""
    _name_what_kernels_call()
    codegen = target.codegen()
    with kept._guard_against_spurious_io_errors():
        stored = kept._cache_file.load(kept._index_key(signature, codegen))
        if stored is None:
            return None
        (name, kind, (code, _)), described, *rest = stored
        codegen._engine._defined_symbols.add(described.llvm_cpython_wrapper_name)
        return CompileResult._rebuild(target, (name, kind, (code, _nothing_to_inline())), described, *rest)
    return None  # an error that the guard let pass


@cache
def _name_what_kernels_call() -> None:
    """Make the functions known by which kernels allocate arrays; Numba compiles some more of them at this point."""
    for name, address in _RUNTIME._nrt.c_helpers.items():
        binding.add_symbol(name if name.startswith("_") else f"NRT_{name}", address)


@cache
def _nothing_to_inline() -> bytes:
    """The intermediate code of an empty module."""
    return bytes(binding.parse_assembly("").as_bitcode())
