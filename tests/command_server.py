"""A process that has imported what `moe` needs, and becomes one command after another: by forks, within milliseconds.

Each command is a process of its own as ever, with its own environment, folder, streams and ending. What it saves is
half a second of imports, which is longer than most commands take, a few hundred times. No thread may run here before a
fork, so nothing that is parallel is called; and huggingface_hub, which reads the environment when it is imported, is
imported anew.

Reads requests from stdin, a line of JSON each; the answer on stdout is two lines, the process and how it ended.
"""

from __future__ import annotations

import gc
import json
import os
import pkgutil
import sys
from contextlib import suppress
from importlib import import_module
from typing import Any

import numpy as np

import cli
import cpu_runtime
import quant
from cli.app import app
from cpu_runtime.kernels.router import softmax_top_k
from quant.errors import ModelNotFound


def prepare() -> None:
    """Import all there is, and let Typer and Numba fill their tables."""
    import huggingface_hub.hf_api  # noqa: F401
    import psutil  # noqa: F401
    import tokenizers  # noqa: F401

    for package in (cli, cpu_runtime, quant):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                import_module(module.name)
    with suppress(ModelNotFound):
        app(["show", "/nowhere"], standalone_mode=False)
    softmax_top_k(np.zeros((1, 2), np.float32), 1, np.zeros((1, 1), np.int32), np.zeros((1, 1), np.float32))
    for name in [name for name in sys.modules if name.split(".")[0] == "huggingface_hub"]:
        del sys.modules[name]
    gc.collect()
    gc.freeze()


def serve() -> dict[str, Any]:
    """Fork for each request; returns in the forked processes alone, with what they are to do."""
    requests, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w", buffering=1)
    for line in requests:
        pid = os.fork()
        if pid == 0:
            requests.close()
            answers.close()
            found: dict[str, Any] = json.loads(line)
            return found
        print(pid, file=answers)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), file=answers)
    os._exit(0)


def become(code: str, arguments: list[str], folder: str, streams: list[str], environment: dict[str, str]) -> None:
    """Run Python statements; stdin, stdout and stderr are files."""
    for descriptor, (path, flags) in enumerate(zip(streams, (os.O_RDONLY, os.O_WRONLY, os.O_WRONLY), strict=True)):
        os.dup2(os.open(path, flags), descriptor)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["moe", *arguments]
    exec(code, {"__name__": "__main__"})


if __name__ == "__main__":
    prepare()
    become(**serve())
