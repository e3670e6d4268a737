"""Layers that show what each of their matrices reads: for calibration, in place of those that only compute."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import numpy as np

from cpu_runtime.layers.latent_attention import LatentAttention
from cpu_runtime.layers.linear import Activations, Linear
from cpu_runtime.layers.moe import MoE
from quant.container import QuantizedModel
from quant.formats import Matrix

Watch = Callable[[str, np.ndarray], None]  # told a matrix's name, and the rows [n, C] f32 that it is about to read


class WatchedLinear(Linear):
    """The same, and `watch` sees its inputs first."""

    __slots__ = ("_name", "_watch")

    def __init__(self, matrix: Matrix, name: str, watch: Watch) -> None:
        super().__init__(matrix)
        self._name, self._watch = name, watch

    def __call__(self, x: Activations) -> np.ndarray:
        """Shapes: x of T rows -> [T, rows] f32."""
        self._watch(self._name, x.x[:, : self.matrix.cols])
        return super().__call__(x)


@dataclass(frozen=True)
class WatchedLatentAttention(LatentAttention):
    """The same; key_up and value_up are seen to read each latent and absorb each head's query, in whatever form.

    Which form is computed depends on how many tokens there are, and a mixture of latents is scaled as they are.
    """

    key_up_name: str
    value_up_name: str
    absorb_name: str
    watch: Watch

    def latents(self, x: Activations, start: int) -> np.ndarray:
        """What is remembered of T tokens: [T, 1, R + dr] f32."""
        rows = super().latents(x, start)
        for name in (self.key_up_name, self.value_up_name):
            self.watch(name, rows[:, 0, : self.rank])
        return rows

    def query(self, low: Activations, start: int) -> np.ndarray:
        """Shapes: -> [T, H, dn + dr] f32."""
        query = super().query(low, start)
        self.watch(self.absorb_name, query[:, :, : self.key_size].reshape(-1, self.key_size))
        return query


@dataclass(frozen=True)
class Watcher:
    """Turns a model's layers into watched ones; `names` has a matrix's by where its tiles begin."""

    names: Mapping[int, str]
    watch: Watch

    @classmethod
    def of(cls, model: QuantizedModel, watch: Watch) -> Watcher:
        """For the layers built from a model's dense matrices."""
        dense = [name for name, entry in model.manifest["dense"].items() if "format" in entry]
        return cls({_address(model.matrix(name)): name for name in dense}, watch)

    def name(self, matrix: Matrix) -> str:
        """A matrix's name in the model."""
        return self.names[_address(matrix)]

    def watched(self, layer: Any) -> Any:
        """The same layer, all of whose matrices are watched; those of routed experts are not in it."""
        if isinstance(layer, Linear):
            return WatchedLinear(layer.matrix, self.name(layer.matrix), self.watch)
        if isinstance(layer, MoE):
            return replace(layer, router=self.watched(layer.router), shared=self.watched(layer.shared), ahead=None)
        if not is_dataclass(layer) or isinstance(layer, type):
            return layer
        parts = {field.name: self.watched(getattr(layer, field.name)) for field in fields(layer)}
        if isinstance(layer, LatentAttention):
            key_up, value_up, absorb = map(self.name, (layer.key_up, layer.value_up.matrix, layer.absorb.matrix))
            return WatchedLatentAttention(
                **parts, key_up_name=key_up, value_up_name=value_up, absorb_name=absorb, watch=self.watch
            )
        return replace(layer, **parts)


def _address(matrix: Matrix) -> int:
    return int(matrix.tiles.ctypes.data)
