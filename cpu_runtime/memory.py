"""How much memory a model may take, and how that is divided: what every token needs first, experts in the rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cpu_runtime import heap
from cpu_runtime.cgroup import memory_room
from cpu_runtime.experts.streamed import slot_bytes
from cpu_runtime.footprint import token_bytes
from cpu_runtime.layers.decoder import Decoder
from cpu_runtime.layers.moe import MoE
from cpu_runtime.session import LONGEST_CHUNK, PREFILL_CHUNK
from quant.container import QuantizedModel
from quant.errors import ResourceError

MIB = 1 << 20
# What a process comes to hold beside weights, caches and the arrays of a chunk: see LOG.md.
RESERVE = 640 * MIB
TOKENIZER_FILES = ("tokenizer.json", "tiktoken.model")
_TOKENIZER = 10  # times its file's size, as it lies in memory
_MARGIN = 16  # unless told otherwise, one part in so many of what is available is left to others, and at least this:
_LEAST_MARGIN = 512 * MIB
_CHUNK_SHARE = 4  # a chunk's arrays may take one part in so many of what experts would have
DEFAULT_CONTEXT = 32_768  # tokens; caches grow as they are used, so a wider window costs nothing until then
LEAST_CONTEXT = 4096  # to which the default shrinks where caches would leave too little memory to experts


@dataclass(frozen=True)
class Sizes:
    """What of a model takes memory, in bytes: weights of every token, a full window's caches, a tokenizer's file,
    the arrays that a token of a prompt is computed in, all experts, the largest of them.

    A token activates `active` of them in a layer.
    """

    dense: int
    caches: int
    tokenizer: int
    token: int
    experts: int
    slot: int
    active: int


@dataclass(frozen=True)
class Division:
    """Bytes: all that the process may hold, what it held before, and what goes to each purpose.

    `chunk` is how many tokens of a prompt are computed at once, for which `scratch` has room.
    """

    total: int
    process: int
    dense: int
    caches: int
    scratch: int
    experts: int
    slot: int
    least_slots: int
    chunk: int

    @property
    def fits(self) -> bool:
        """Whether the whole model can be in memory."""
        return self.experts <= self.left

    @property
    def left(self) -> int:
        """For experts."""
        return self.total - self.process - self.dense - self.caches - self.scratch

    @property
    def crowded(self) -> bool:
        """Whether the experts would get less than the caches."""
        return not self.fits and self.left < self.caches

    @property
    def kept(self) -> int:
        """Bytes of experts that there is room for, whole ones where some are on disk."""
        return self.experts if self.fits else max(0, self.left) // self.slot * self.slot

    @property
    def claimed(self) -> int:
        """What the model takes beside what the process held before it."""
        return self.dense + self.caches + self.scratch + self.kept

    @property
    def needed(self) -> int:
        """What the model can't run without."""
        return self.total - self.left + min(self.least_slots * self.slot, self.experts)

    @property
    def runs(self) -> bool:
        """Whether it runs at all."""
        return self.needed <= self.total

    def slots(self, context: int) -> int:
        """How many experts there is room for; raises ResourceError where these are too few to compute with."""
        slots = min(self.left, self.experts) // self.slot
        if slots >= self.least_slots:
            return slots
        parts = {
            "weights of every token": self.dense,
            f"caches of {context} tokens": self.caches,
            f"{self.least_slots} experts": self.least_slots * self.slot,
            "everything else": self.process + self.scratch,
        }
        split = ", ".join(f"{name} {_mib(size)}" for name, size in parts.items())
        raise ResourceError(
            f"at least {_mib(self.needed)} of memory are needed ({split}), {_mib(self.total)} were given or are free",
            hint=f"give --memory {-(-self.needed // MIB)}MiB, a smaller --ctx, or close other programs",
        )


def divide(
    model: QuantizedModel, decoder: Decoder, context: int, kv_dtype: np.dtype, memory_bytes: int | None
) -> Division:
    """The division of `memory_bytes`, or of what is available less a margin where that is None."""
    heap.give_back()  # what earlier engines and measurements let go of is not counted as taken
    process = process_bytes()
    layers = [block.feed_forward for block in decoder.blocks if isinstance(block.feed_forward, MoE)]
    active = max((layer.active for layer in layers), default=0)
    sizes = Sizes(
        dense=model.dense_bytes,
        caches=sum(cache.most_bytes for cache in decoder.new_caches(context, kv_dtype)),
        tokenizer=tokenizer_bytes(model.path),
        token=token_bytes(model.manifest["dense"], model.manifest["experts"], active),
        experts=sum(model.expert_layer(layer).records.nbytes for layer in model.expert_layers),
        slot=slot_bytes(model),
        active=active,
    )
    return share_out(sizes, budget(memory_bytes), process, context)


def share_out(sizes: Sizes, total: int, process: int, context: int) -> Division:
    """How a process that holds `process` bytes before it opens a model divides `total`, for a window of `context`."""
    division = Division(
        total=total,
        process=process,
        dense=sizes.dense,
        caches=sizes.caches,
        scratch=RESERVE + _TOKENIZER * sizes.tokenizer + PREFILL_CHUNK * sizes.token,
        experts=sizes.experts,
        slot=sizes.slot,
        least_slots=max(1, 2 * sizes.active),  # those in use, and as many that the next layer's can be read into
        chunk=PREFILL_CHUNK,
    )
    # A chunk reads and unpacks each expert once, so a longer one does so less often, as long as its arrays take but a
    # part of what experts leave, or of what there is for those of them that fit.
    while division.chunk < min(context, LONGEST_CHUNK):
        more = division.chunk * sizes.token
        if 2 * more > (division.left - (division.experts if division.fits else 0)) // _CHUNK_SHARE:
            break
        division = replace(division, chunk=2 * division.chunk, scratch=division.scratch + more)
    return division


def with_window(division_of: Callable[[int], Division], context: int | None, longest: int) -> tuple[int, Division]:
    """(the window, its division): `context`, or the default, narrowed where caches would crowd experts out."""
    window = min(DEFAULT_CONTEXT, longest) if context is None else context
    division = division_of(window)
    while context is None and division.crowded and window > LEAST_CONTEXT:
        window //= 2
        division = division_of(window)
    return window, division


def budget(memory_bytes: int | None) -> int:
    """The most that this process may hold: `memory_bytes` or what there is, less a margin where that is None."""
    process, free = process_bytes(), available_bytes()
    if memory_bytes is not None:
        return min(process + free, memory_bytes)
    return process + free - max(_LEAST_MARGIN, free // _MARGIN)


def tokenizer_bytes(folder: Path) -> int:
    """The size of the file that a folder's tokenizer is read from; 0 where there is none."""
    files = (folder / name for name in TOKENIZER_FILES)
    return max((file.stat().st_size for file in files if file.exists()), default=0)


def process_bytes() -> int:
    """Memory that this process holds now, of its own and mapped."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def available_bytes() -> int:
    """Memory that can be taken without swapping, on this machine and in this process's control group."""
    import psutil

    free, room = int(psutil.virtual_memory().available), memory_room()
    return free if room is None else min(free, room)


def _mib(size: int) -> str:
    return f"{size / MIB:.0f} MiB"
