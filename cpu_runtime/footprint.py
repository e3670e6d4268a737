"""What a quantized model weighs: on disk, for every token, for the experts a token activates, for its context.

Follows from the manifest's description of every tensor, which a conversion writes and which can be told beforehand from
a plan: so the numbers are the same for a model in the store, for a checkpoint, and for a config.json alone.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import prod
from typing import Any

from cpu_runtime import models
from cpu_runtime.caches.size import CacheSize
from quant import layout
from quant.container import QuantizedModel
from quant.formats import FORMATS
from quant.manifest import tensors
from quant.plan import Plan
from quant.recipe import Recipe


@dataclass(frozen=True)
class Work:
    """Matrices in one format: stored bytes, weights (each a product a token), and how many matrices."""

    format: str
    bytes: int
    weights: int
    matrices: int


@dataclass(frozen=True)
class Footprint:
    """`always` is what every token reads but for the head, which a prompt reads once; `expert` is a layer's expert.

    Of the embedding a token reads one row, and of latent attention's key_up nothing while it decodes.
    """

    family: str
    files: dict[str, int]  # bytes of the files of weights, by name
    roles: dict[str, int]  # bytes by role
    weights: int  # of the source, each counted once
    always: tuple[Work, ...]
    head: Work
    experts: int  # a layer
    active: int  # for a token, in each layer
    expert: tuple[Work, ...]
    records: tuple[int, ...]  # bytes of an expert's record, for each layer that has experts
    token_bytes: int  # the arrays that a token of a prompt is computed in
    cache: CacheSize
    number_bytes: int  # of the cache
    context: int  # the longest that the model was made for

    @property
    def disk_bytes(self) -> int:
        """All files of weights."""
        return sum(self.files.values())

    @property
    def always_bytes(self) -> int:
        """Read by every token: attention, shared experts, routers, head."""
        return sum(work.bytes for work in self.always) + self.head.bytes

    @property
    def expert_bytes(self) -> int:
        """All routed experts."""
        return self.experts * sum(self.records)

    @property
    def dense_bytes(self) -> int:
        """Everything but the routed experts and the embedding, of which a token reads a row."""
        return sum(self.roles.values()) - self.expert_bytes - self.roles["embedding"]

    @property
    def routed_bytes(self) -> int:
        """The experts that one token activates."""
        return self.active * sum(self.records)

    @property
    def products(self) -> int:
        """Weights that a token of a prompt is multiplied with, the head left out."""
        routed = len(self.records) * self.active * sum(work.weights for work in self.expert)
        return sum(work.weights for work in self.always) + routed

    def cache_bytes(self, tokens: int) -> int:
        """What a session of so many tokens remembers."""
        return self.cache.bytes(tokens, self.number_bytes)


def of_model(model: QuantizedModel) -> Footprint:
    """A quantized model's, from its manifest; raises as `models.find` and the family's `read` do."""
    model.check(models.plan_for(model.config, ()))
    files = {name: e["bytes"] for name, e in model.manifest["files"].items() if name.endswith(".safetensors")}
    return _footprint(model.config, files, model.manifest["dense"], model.manifest["experts"])


def of_source(config: dict[str, Any], plan: Plan, recipe: Recipe, source: layout.Source) -> Footprint:
    """That of the model which a conversion would make; exact where `source` is a checkpoint."""
    return _footprint(config, layout.file_bytes(plan, recipe, source), *tensors(plan, recipe, source))


def token_bytes(dense: dict[str, Any], experts: dict[str, Any], active: int) -> int:
    """The arrays that a token of a prompt is computed in: the widest layer's, and its experts' answers.

    `dense` and `experts` are a manifest's; `active` experts of a layer answer.
    """
    shapes = [e["shape"] for e in dense.values() if "format" in e and e["role"] not in ("embedding", "head")]
    parts = [entry["parts"] for entry in experts.values()]
    answers = max((part["down"]["rows"] + 3 * part["gate"]["rows"] for part in parts), default=0)
    return 4 * (4 * max(shape[0] for shape in shapes) + active * answers)


def _footprint(
    config: dict[str, Any], files: dict[str, int], dense: dict[str, Any], experts: dict[str, Any]
) -> Footprint:
    family = models.find(config)
    c = family.read(config)
    roles: Counter[str] = Counter()
    weights, used, formats = 0, [], set()
    for name, entry in dense.items():
        work = _work(entry, prod(entry["shape"]))
        formats.add(work.format)
        roles[entry["role"]] += work.bytes
        weights += 0 if entry.get("heads", {}).get("transposed") else work.weights
        if entry["role"] not in ("embedding", "head") and not name.endswith(".key_up"):
            used.append(work)
    first: dict[str, Any] = next(iter(experts.values()), {"n_experts": 0, "parts": {}})
    parts = [_work(part, part["rows"] * part["cols"]) for part in first["parts"].values()]
    records = tuple(entry["record_bytes"] for entry in experts.values())
    roles["expert"] = first["n_experts"] * sum(records)
    formats |= {part.format for part in parts}
    return Footprint(
        family=config["model_type"],
        files=files,
        roles=dict(roles.most_common()),
        weights=weights + len(records) * first["n_experts"] * sum(part.weights for part in parts),
        always=_by_format(used),
        head=_work(dense["head"], prod(dense["head"]["shape"])),
        experts=first["n_experts"],
        active=c.active,
        expert=_by_format(parts),
        records=records,
        token_bytes=token_bytes(dense, experts, c.active),
        cache=family.cache_size(c),
        number_bytes=4 if formats <= {"f32", "bf16"} else 2,  # float32 where nothing is quantized, as Engine has it
        context=c.context,
    )


def _work(entry: dict[str, Any], weights: int) -> Work:
    if "format" not in entry:
        return Work("f32", 4 * weights, weights, 0)
    rows, cols = entry.get("shape") or (entry["rows"], entry["cols"])
    return Work(entry["format"], FORMATS[entry["format"]].matrix_bytes(rows, cols), weights, 1)


def _by_format(works: list[Work]) -> tuple[Work, ...]:
    sums = []
    for name in sorted({work.format for work in works}):
        same = [work for work in works if work.format == name]
        sums.append(Work(name, sum(w.bytes for w in same), sum(w.weights for w in same), sum(w.matrices for w in same)))
    return tuple(sums)
