"""How much memory a model may take, and how that is divided: what every token needs first, experts in the rest."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from cpu_runtime.cgroup import memory_room
from cpu_runtime.experts.streamed import slot_bytes
from cpu_runtime.layers.decoder import Decoder
from cpu_runtime.layers.moe import MoE
from cpu_runtime.session import LONGEST_CHUNK, PREFILL_CHUNK
from quant.container import QuantizedModel
from quant.errors import ResourceError

MIB = 1 << 20
# What a process comes to hold beside weights, caches and the arrays of a chunk: see LOG.md.
RESERVE = 320 * MIB
_TOKENIZER = 10  # times its file's size, as it lies in memory
_MARGIN = 16  # unless told otherwise, one part in so many of what is available is left to others, and at least this:
_LEAST_MARGIN = 512 * MIB
_CHUNK_SHARE = 4  # a chunk's arrays may take one part in so many of what experts would have


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

    def slots(self, context: int) -> int:
        """How many experts there is room for; raises ResourceError where these are too few to compute with."""
        slots = min(self.left, self.experts) // self.slot
        if slots >= self.least_slots:
            return slots
        needed = self.total - self.left + self.least_slots * self.slot
        parts = {
            "weights of every token": self.dense,
            f"caches of {context} tokens": self.caches,
            f"{self.least_slots} experts": self.least_slots * self.slot,
            "everything else": self.process + self.scratch,
        }
        split = ", ".join(f"{name} {_mib(size)}" for name, size in parts.items())
        raise ResourceError(
            f"at least {_mib(needed)} of memory are needed ({split}), {_mib(self.total)} were given or are free",
            hint=f"give --memory {-(-needed // MIB)}MiB, a smaller --ctx, or close other programs",
        )


def divide(
    model: QuantizedModel, decoder: Decoder, context: int, kv_dtype: np.dtype, memory_bytes: int | None
) -> Division:
    """The division of `memory_bytes`, or of what is available less a margin where that is None."""
    process, free = process_bytes(), available_bytes()
    total = process + free
    if memory_bytes is None:
        total -= max(_LEAST_MARGIN, free // _MARGIN)
    else:
        total = min(total, memory_bytes)
    layers = [block.feed_forward for block in decoder.blocks if isinstance(block.feed_forward, MoE)]
    active = max((layer.active for layer in layers), default=0)
    token = _token_bytes(model, active)
    division = Division(
        total=total,
        process=process,
        dense=model.dense_bytes,
        caches=sum(cache.most_bytes for cache in decoder.new_caches(context, kv_dtype)),
        scratch=RESERVE + _TOKENIZER * _tokenizer_bytes(model) + PREFILL_CHUNK * token,
        experts=sum(model.expert_layer(layer).records.nbytes for layer in model.expert_layers),
        slot=slot_bytes(model),
        least_slots=max(1, 2 * active),  # those in use, and as many that the next layer's can be read into
        chunk=PREFILL_CHUNK,
    )
    # A chunk reads and unpacks each expert once, so a longer one does so less often, as long as its arrays take but a
    # part of what experts leave, or of what there is for those of them that fit.
    while division.chunk < min(context, LONGEST_CHUNK):
        more = division.chunk * token
        if 2 * more > (division.left - (division.experts if division.fits else 0)) // _CHUNK_SHARE:
            break
        division = replace(division, chunk=2 * division.chunk, scratch=division.scratch + more)
    return division


def _token_bytes(model: QuantizedModel, active: int) -> int:
    """The arrays that a token of a prompt is computed in: the widest layer's, and its experts' answers."""
    dense = model.manifest["dense"].values()
    widest = max(
        entry["shape"][0] for entry in dense if "format" in entry and entry["role"] not in ("embedding", "head")
    )
    layers = [model.expert_layer(layer).parts for layer in model.expert_layers]
    answers = max((parts["down"].rows + 3 * parts["gate"].rows for parts in layers), default=0)
    return 4 * (4 * widest + active * answers)


def _tokenizer_bytes(model: QuantizedModel) -> int:
    files = (model.path / name for name in ("tokenizer.json", "tiktoken.model"))
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
