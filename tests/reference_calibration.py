"""The slow, obvious twin of calibration: a model reads its windows as it would any prompt.

What its matrices read is noted on the way, or worked out from unpacked weights where nothing shows it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from cpu_runtime import Engine
from cpu_runtime.layers.latent_attention import LatentAttention
from cpu_runtime.layers.linear import Activations, Linear
from cpu_runtime.layers.moe import MoE
from cpu_runtime.layers.sparse_attention import SparseLatentAttention
from tests import reference

Rows = dict[str, list[np.ndarray]]


def rows_read(engine: Engine, windows: Sequence[Sequence[int]]) -> tuple[Rows, dict[int, Rows]]:
    """(rows that each dense matrix read, by its name; layer -> rows that "expert.part" read)."""
    names = {
        engine.model.matrix(name).tiles.ctypes.data: name
        for name, entry in engine.model.manifest["dense"].items()
        if "format" in entry
    }
    dense: Rows = {}
    experts: dict[int, Rows] = {}
    linear, moe = Linear.__call__, MoE.__call__

    def read(self: Linear, x: Activations) -> np.ndarray:
        name = names.get(self.matrix.tiles.ctypes.data, "a part of a matrix")
        dense.setdefault(name, []).append(x.x[:, : self.matrix.cols].copy())
        out = linear(self, x)
        if name.endswith(".kv_a"):
            _latents(_latent(engine, name), name, out, dense)
        if name.endswith(".q_b"):
            layer = _latent(engine, name)
            query = out.reshape(len(out) * layer.heads, -1)[:, : layer.key_size]
            dense.setdefault(name.replace("q_b", "absorb"), []).append(query.copy())
        return out

    def route(self: MoE, x: Activations) -> np.ndarray:
        _experts(self, x, experts.setdefault(self.layer, {}))
        return moe(self, x)

    with pytest.MonkeyPatch.context() as patch:
        for name in ("key_up", "value_up"):  # only one of the forms of attention reads them through a Linear
            for at in [at for at, found in names.items() if found.endswith(name)]:
                del names[at]
        patch.setattr(Linear, "__call__", read)
        patch.setattr(MoE, "__call__", route)
        for window in windows:
            hidden = engine.session().advance(window)
            dense.setdefault("head", []).append(engine.decoder.norm.in_place(hidden))
    return dense, experts


def _latent(engine: Engine, name: str) -> LatentAttention:
    mixer = engine.decoder.blocks[int(name.split(".")[1])].mixer
    found = mixer.latent if isinstance(mixer, SparseLatentAttention) else mixer
    assert isinstance(found, LatentAttention)
    return found


def _latents(layer: LatentAttention, name: str, rows: np.ndarray, dense: Rows) -> None:
    norm = layer.kv_norm
    normed = reference.rms_norm(rows[:, : layer.rank], norm.weight, float(norm.eps))
    for part in ("key_up", "value_up"):
        dense.setdefault(name.replace("kv_a", part), []).append(normed)


def _experts(moe: MoE, x: Activations, found: Rows) -> None:
    """What each picked expert reads: the token, and what its gate and up make of it."""
    picked, _ = moe.router(x)
    records = moe.store.records(moe.layer)
    for expert in np.unique(picked):
        rows = x.x[(picked == expert).any(1)].astype(np.float64)
        weights = {}
        for name, part in records.parts.items():
            tiles = records.records[expert, part.offset : part.offset + part.bytes]
            tiles = tiles.reshape(-1, part.format.tile_bytes(part.cols))
            weights[name] = part.format.unpack(tiles, part.rows, part.cols).astype(np.float64)
        rows = rows[:, : weights["gate"].shape[1]]
        hidden = reference.silu(rows @ weights["gate"].T) * (rows @ weights["up"].T)
        found.setdefault(f"{expert}.gate", []).append(rows)
        found.setdefault(f"{expert}.down", []).append(hidden)


def mean_squares(rows: list[np.ndarray]) -> np.ndarray:
    """Of each column: [C] f64."""
    return np.asarray((np.concatenate(rows).astype(np.float64) ** 2).mean(0))


def importance(shares: np.ndarray, tokens: int, others: np.ndarray, prior: int) -> np.ndarray:
    """What a matrix's own inputs say, and as if `prior` further tokens were like the others."""
    return (tokens * shares + prior * others) / (tokens + prior)
