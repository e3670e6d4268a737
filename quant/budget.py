"""How large a quantized model may become: bits a weight, or bytes."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, prod

from quant import layout
from quant.plan import Plan
from quant.recipe import Recipe


@dataclass(frozen=True)
class Budget:
    """At most `bits` a weight of the whole model, or `bytes` of files of weights; `name` is that of its recipe."""

    name: str
    bits: float | None = None
    bytes: int | None = None

    def most_bytes(self, plan: Plan) -> int:
        """Bytes that the model may take."""
        if self.bits is not None:
            return int(self.bits * weights(plan) / 8)
        assert self.bytes is not None
        return self.bytes

    def counted_headers(self, plan: Plan, largest: Recipe, source: layout.Source) -> int:
        """Bytes of the files' headers as far as they count; none are longer than those of the largest recipe."""
        if self.bits is not None:
            return 0
        heads = [layout.dense_header(plan, largest, source)[0]]
        heads += [layout.expert_header(layer, largest, source)[0] for layer in plan.experts]
        return sum(map(len, heads))

    def __str__(self) -> str:
        """The most that it allows."""
        return _bytes(self.bytes) if self.bits is None else f"{self.bits:g} bits a weight"

    def written(self, size: int, plan: Plan) -> str:
        """Bytes of the model in the budget's own unit, rounded up: so much would do."""
        return _bytes(size) if self.bits is None else f"{ceil(800 * size / weights(plan)) / 100:.2f} bits a weight"


def _bytes(count: int | None) -> str:
    assert count is not None
    return f"{ceil(count / 1e7) / 100:,.2f} GB" if count >= 1e9 else f"{ceil(count / 1e4) / 100:,.2f} MB"


def weights(plan: Plan) -> int:
    """Weights of the whole model, those of matrices that are stored twice counted twice."""
    dense = sum(prod(tensor.shape) for tensor in plan.dense)
    return dense + sum(layer.n_experts * prod(part.shape) for layer in plan.experts for part in layer.parts)
