"""The door to Numba: `kernel`, `inner`, `function_of_its_own`, `parallel_kernel`, `prange`, `set_threads`, `threads`,
`cpu_features`.

Kernels carry no explicit signatures, because those compile at import: their types stand in the Shapes line of the
docstring. Compiled code is kept on disk, so that each machine compiles once; Numba's cache already tells CPUs and
CPU features apart. With NUMBA_DISABLE_JIT=1 kernels are the Python they are written in.
"""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any


def _cache_dir() -> Path:
    """Where compiled kernels are kept: the platform's cache folder, or one for this process if that is read-only."""
    home = Path(os.path.expanduser("~"))
    if sys.platform == "darwin":
        base = home / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    folder = base / "moe" / "numba"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        # Private and short-lived: a cache holds code, so a shared folder that others can write to will not do.
        folder = Path(tempfile.mkdtemp(prefix="moe-numba-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


if not os.environ.get("NUMBA_CACHE_DIR"):  # read when numba is imported, so it must be set before
    os.environ["NUMBA_CACHE_DIR"] = str(_cache_dir())

# How often GNU OpenMP looks for work before it sleeps; it reads this when it is loaded. Some 45 us (100 on Zen) outlast
# the time between two kernels, where a quarter of that does not: waking took a tenth of a token. By default it is
# milliseconds, which beside other busy programs are taken from the very thread that is waited for: a token every
# second, where this gives fifteen.
if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & set(os.environ):
    os.environ["GOMP_SPINCOUNT"] = "4000"

# Numba imports PyYAML, 30 ms, for a file of its settings in the working directory.
_SPARED = [] if Path(".numba_config.yaml").exists() or "yaml" in sys.modules else ["yaml"]
sys.modules.update(dict.fromkeys(_SPARED))  # type: ignore[arg-type]  # None: not to be imported

import numba  # noqa: E402

for _name in _SPARED:
    del sys.modules[_name]

from quant.kernel_cache import keep  # noqa: E402

# Not `nnan` or `ninf`: masks are -inf, and a softmax that may assume there is none is wrong. Not `arcp` or `afn`: they
# let a quotient or a root be an estimate in one loop and exact in another, by what else the loop holds.
FASTMATH = frozenset({"nsz", "contract", "reassoc"})
_config: Any = numba.config  # its attributes are made at run time
DISABLED = bool(_config.DISABLE_JIT)
prange = numba.prange
_set = threading.local()  # `count`: as Numba keeps it, but asked in a tenth of the time
_OPTIONS: dict[str, Any] = {"nogil": True, "cache": True, "fastmath": set(FASTMATH), "error_model": "numpy"}


def kernel(function: Callable[..., Any]) -> Any:
    """Compile for the calling thread, without the GIL."""
    return _kept(numba.njit(function, **_OPTIONS))


def _kept(dispatcher: Any) -> Any:
    return dispatcher if DISABLED else keep(dispatcher)


def inner(function: Callable[..., Any]) -> Any:
    """Compile into the kernels that call it, however long it is: a call would count references to arrays.

    Never kept on disk by itself: what is loaded from there can't be inlined any more, so that two kernels compiled on
    different days would round differently, and run at different speeds.
    """
    return numba.njit(function, **{**_OPTIONS, "cache": False, "forceinline": True})


def function_of_its_own(function: Callable[..., Any]) -> Any:
    """Compile to be called by kernels: what is long and stands in several places takes memory and time in each."""
    return numba.njit(function, **{**_OPTIONS, "cache": False, "forceinline": False})


def parallel_kernel(function: Callable[..., Any]) -> Any:
    """Compile with `prange` loops spread over the threads."""
    return _kept(numba.njit(function, parallel=True, **_OPTIONS))


def set_threads(count: int) -> None:
    """Let parallel kernels called from this thread use `count` threads, at most one a CPU."""
    _set.count = max(1, min(count, _config.NUMBA_NUM_THREADS))
    numba.set_num_threads(_set.count)


def threads() -> int:
    """How many threads this thread's parallel kernels use. A kernel that asked itself could not be kept on disk."""
    return int(getattr(_set, "count", _config.NUMBA_NUM_THREADS))


def cpu_features() -> frozenset[str]:
    """LLVM's names of the instruction sets kernels compile to; NUMBA_CPU_NAME and NUMBA_CPU_FEATURES change them."""
    from numba.core.codegen import get_host_cpu_features

    chosen = _config.CPU_FEATURES
    names = (get_host_cpu_features() if chosen is None else chosen).split(",")
    return frozenset(name[1:] for name in names if name.startswith("+"))
