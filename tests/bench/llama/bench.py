"""Where the models of a comparison lie, and how each engine is asked: one process at a time."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.half_memory import limited
from tests.bench.llama.gguf_model import write_gguf
from tests.published import MINIMAX_M25, QWEN_397B, scaled
from tests.synth import write_model

Test = tuple[int, int, int]  # tokens of a prompt, tokens generated, tokens that are there before

CONFIGS = {  # experts of 2.65 MB, 8 of 128 a token
    "minimax_m2": scaled(
        MINIMAX_M25, hidden_size=2048, intermediate_size=768, num_local_experts=128, num_attention_heads=16,
        num_key_value_heads=8, vocab_size=32_000,
    ),
    "qwen3_5_moe": scaled(
        QWEN_397B, hidden_size=2048, moe_intermediate_size=768, shared_expert_intermediate_size=768, num_experts=128,
        num_experts_per_tok=8, num_attention_heads=16, num_key_value_heads=2, linear_num_value_heads=32,
        vocab_size=32_000,
    ),
}  # fmt: skip
EXPERTS = {"minimax_m2": "num_local_experts", "qwen3_5_moe": "num_experts"}


@dataclass(frozen=True)
class Pair:
    """The same made-up model in both formats."""

    ours: Path
    theirs: Path

    @property
    def bytes(self) -> tuple[int, int]:
        """Of the weights on disk: ours, theirs."""
        return sum(file.stat().st_size for file in self.ours.glob("*.safetensors")), self.theirs.stat().st_size


class EngineFailed(SystemExit):
    """A measured process ended in an error."""


@dataclass(frozen=True)
class Mode:
    """How llama.cpp is run: a name of `theirs.MODES`, and flash attention or not."""

    load: str
    flash: bool

    def __str__(self) -> str:
        return f"{self.load}, flash {'on' if self.flash else 'off'}"

    @classmethod
    def named(cls, name: str) -> Mode:
        """The mode that is shown by this name."""
        load, flash = name.rsplit(", flash ", 1)
        return cls(load, flash == "on")


@dataclass
class Bench:
    """The choices of one run; `under` is a command that each measured process runs under."""

    arch: str
    layers: int
    experts: int
    scratch: Path
    threads: int
    rounds: int
    quick: bool
    under: list[str]
    mode: Mode | None = None  # of llama.cpp with the whole model in memory; the best is looked for where it is None
    about: dict[str, str] = field(default_factory=dict)  # what was learnt on the way: versions, modes tried
    roofs: list[dict[str, float]] = field(default_factory=list)  # of every in-memory run of ours

    def config(self, **changes: int) -> dict[str, Any]:
        """The config.json that is compared."""
        return scaled(
            CONFIGS[self.arch], **{"num_hidden_layers": self.layers, EXPERTS[self.arch]: self.experts} | changes
        )

    def pair(self, name: str = "whole", **changes: int) -> Pair:
        """The model with these changes, written when first asked for."""
        pair = Pair(
            self.scratch / f"{self.arch}-{self.layers}-{self.experts}-{name}",
            self.scratch / f"{self.arch}-{self.layers}-{self.experts}-{name}.gguf",
        )
        if not pair.ours.exists():
            progress(f"writing {pair.ours.name}")
            write_model(self.config(**changes), pair.ours)
        if not pair.theirs.exists():
            write_gguf(self.config(**changes), pair.theirs)
        return pair

    def ask_ours(self, work: str, model: Path, limit: int | None = None, **request: Any) -> dict[str, Any]:
        """What `ours.py` answers."""
        found = self._ask("ours", [work], {"path": str(model), "threads": self.threads, **request}, limit, model)
        if "read_roof" in found:
            self.roofs.append(found)
        return found

    def ask_theirs(self, model: Path, mode: Mode, limit: int | None = None, **request: Any) -> dict[str, Any]:
        """What `theirs.py` answers."""
        own = {"path": str(model), "mode": mode.load, "flash": mode.flash, "threads": self.threads}
        found = self._ask("theirs", [], own | request, limit, model)
        self.about["llama.cpp"] = f"llama-cpp-python {found['version']}; {found['about']}"
        return found

    def _ask(
        self, module: str, arguments: list[str], request: dict[str, Any], limit: int | None, model: Path
    ) -> dict[str, Any]:
        progress(f"{module} {' '.join(arguments)} {request}{f' in {limit} bytes' if limit else ''}")
        command = [*self.under, sys.executable, "-m", f"tests.bench.llama.{module}", *arguments, json.dumps(request)]
        if limit is not None:
            found = limited(command, limit)
        else:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise EngineFailed(f"{module}: exit {done.returncode}\n{done.stderr[-2000:]}")
            found = json.loads(done.stdout.splitlines()[-1])
        progress(f"  {found}")
        return found


def modes(loads: tuple[str, ...], *flash: bool) -> Iterator[Mode]:
    """All of these together."""
    yield from (Mode(load, on) for load in loads for on in flash)


def progress(text: str) -> None:
    """Say on stderr what is going on."""
    print(text, file=sys.stderr, flush=True)
