"""llama.cpp, in a process of its own and measured as llama-bench does: the only file that imports it.

python -m tests.bench.llama.theirs REQUEST     a JSON object, as `Request` has it; the answer is the last line
"""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from tests.bench.cold import forget

MODES = {  # (load mode, repacked weights)
    "mmap, repacked": ("LLAMA_LOAD_MODE_AUTO", True),
    "mmap": ("LLAMA_LOAD_MODE_MMAP", False),
    "read, repacked": ("LLAMA_LOAD_MODE_NONE", True),
    "read": ("LLAMA_LOAD_MODE_NONE", False),
}


@dataclass(frozen=True)
class Request:
    """Tests are (prompt, generated, depth) in tokens; `warm` tokens are generated before a generation is timed.

    With `cold` the file is taken out of the cache first.
    """

    path: str
    mode: str
    flash: bool
    threads: int
    tests: list[tuple[int, int, int]]
    repetitions: int = 2
    warm: int = 16
    warm_prompt: bool = True
    cold: bool = False


def run(request: Request) -> dict[str, Any]:
    """Tokens a second of every repetition of each test, and what llama.cpp says about itself."""
    import llama_cpp as lib

    if request.cold:
        forget(Path(request.path))
    quiet = lib.llama_log_callback(lambda level, text, user: sys.stderr.write(text.decode()) if level == 4 else None)
    lib.llama_log_set(quiet, ctypes.c_void_p(0))
    lib.llama_backend_init()
    params = lib.llama_model_default_params()
    load_mode, params.use_extra_bufts = MODES[request.mode]
    params.load_mode = getattr(lib, load_mode)
    started = perf_counter()
    model = lib.llama_model_load_from_file(request.path.encode(), params)
    if not model:
        raise SystemExit(f"llama.cpp can't load {request.path}")
    loaded = perf_counter() - started
    rates = [list(measured(lib, model, request, *test)) for test in request.tests]
    lib.llama_model_free(model)
    about = lib.llama_print_system_info().decode().strip()
    return {"rates": rates, "load_s": loaded, "version": lib.__version__, "about": about}


def measured(lib: Any, model: Any, request: Request, prompt: int, generated: int, depth: int) -> Iterator[float]:
    """Tokens a second, once for each repetition; generations follow each other, prompts start anew."""
    repetitions = 1 if depth else request.repetitions
    params = lib.llama_context_default_params()
    params.n_ctx = depth + prompt + request.warm + repetitions * generated
    params.n_batch, params.n_ubatch = 2048, 512
    params.n_threads = params.n_threads_batch = request.threads
    on, off = lib.LLAMA_FLASH_ATTN_TYPE_ENABLED, lib.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.flash_attn_type = on if request.flash else off
    context = lib.llama_init_from_model(model, params)
    if not context:
        raise SystemExit("llama.cpp can't make a context")
    random, vocab = np.random.default_rng(0), lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))

    def decode(count: int, at_once: int) -> float:
        """Read random tokens; seconds."""
        ids = random.integers(0, vocab, count).tolist()
        start = perf_counter()
        for first in range(0, count, at_once):
            some = (lib.llama_token * min(at_once, count - first))(*ids[first : first + at_once])
            if lib.llama_decode(context, lib.llama_batch_get_one(some, len(some))):
                raise SystemExit("llama.cpp can't decode")
            lib.llama_synchronize(context)
        return perf_counter() - start

    if generated:
        decode(depth, 2048)
        decode(request.warm, 1)
        yield from (generated / decode(generated, 1) for _ in range(repetitions))
    else:
        for turn in range(repetitions + request.warm_prompt):
            lib.llama_memory_clear(lib.llama_get_memory(context), True)
            decode(depth, 2048)
            rate = prompt / decode(prompt, 2048)
            if turn or not request.warm_prompt:
                yield rate
    logits = np.ctypeslib.as_array(lib.llama_get_logits_ith(context, -1), (vocab,))
    if not np.isfinite(logits).all():
        raise SystemExit("llama.cpp's logits are not finite")
    lib.llama_free(context)


if __name__ == "__main__":
    print(json.dumps(run(Request(**json.loads(sys.argv[1])))))
