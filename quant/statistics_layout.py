"""What a file of statistics holds for a plan: which tensors, in which order, and what they are called.

It is a safetensors file; see `quant/FORMAT.md`. Experts come first, a layer after another, because they are collected
in that order and are nearly all of it.
"""

from __future__ import annotations

from math import prod

from quant import layout
from quant.layout import expert_tensor
from quant.plan import Plan
from quant.safetensors_file import DTYPE_BYTES

FORMAT = "moe-statistics 1"
# Keys of the file's metadata besides "format": who read which text, and how much of it.
FACTS = ("model", "source", "text", "text_sha256", "tokens", "window")
READ_ALIKE = {"up": "gate"}  # an expert's part -> the one whose inputs it shares


def tokens_name(layer: int) -> str:
    """The tensor that says how many tokens each expert of a layer saw: I64 [E]."""
    return f"{expert_tensor(layer)}.tokens"


def squares_name(layer: int, part: str) -> str:
    """The tensor of the inputs' mean squares of a part, each row over its own mean: F16 [E, C]."""
    return f"{expert_tensor(layer)}.{READ_ALIKE.get(part, part)}"


def mean_name(layer: int, part: str) -> str:
    """The tensor of those means: F32 [E]."""
    return f"{squares_name(layer, part)}.mean"


def tensors(plan: Plan) -> dict[str, tuple[str, tuple[int, ...]]]:
    """(dtype, shape) of every tensor of a plan's statistics, in the order of the file.

    A dense matrix has one of the mean squares of its inputs, zeros where it was never used; an embedding has no inputs.
    """
    found: dict[str, tuple[str, tuple[int, ...]]] = {}
    for layer in plan.experts:
        n, at = layer.n_experts, layer.layer
        found[tokens_name(at)] = "I64", (n,)
        for part in layer.parts:
            if part.name not in READ_ALIKE:
                found[mean_name(at, part.name)] = "F32", (n,)
                found[squares_name(at, part.name)] = "F16", (n, part.shape[1])
    for dense in plan.dense:
        if dense.kind == "matrix" and dense.role != "embedding":
            found[dense.name] = "F32", (dense.shape[1],)
    return found


def tensor_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    """The size of one of them."""
    return DTYPE_BYTES[dtype] * prod(shape)


def header(plan: Plan, facts: dict[str, str]) -> bytes:
    """The beginning of the file, up to the first tensor's bytes."""
    sizes = {name: (*entry, tensor_bytes(*entry)) for name, entry in tensors(plan).items()}
    known = {key: "".join(c if c.isprintable() else "?" for c in value) for key, value in facts.items()}
    return layout.header(sizes, {"format": FORMAT, **known}, align=8)
