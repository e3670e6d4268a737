"""What a calibration found: how large the inputs of each matrix are, and so how much an error there matters."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from quant.checksums import sha256
from quant.errors import CheckpointError, UsageError
from quant.plan import Plan
from quant.safetensors_file import TensorInfo, read_header
from quant.statistics_layout import FACTS, FORMAT, squares_name, tensors, tokens_name

AGAIN = "make it again: moe calibrate"
# How many tokens a layer's mean counts for beside those that an expert saw itself, and evenness beside the layer's: a
# few inputs alone would make an expert good at them and bad at all others. See LOG.md; 2 to 32 differ little.
PRIOR = 8
_EXPERT = re.compile(r"layers\.(\d+)\.experts\.(\d+)\.(\w+)", re.ASCII)
_KINDS = {"I64": "<i8", "F32": "<f4", "F16": "<f2"}


class Statistics:
    """A file of statistics, checked; numbers are read when they are asked for.

    `calibration` says which model read which text, and the file's checksum, as a manifest has it; `path` is the file.
    """

    def __init__(self, path: Path) -> None:
        """Open; raises CheckpointError where it is no such file, UsageError where there is none."""
        if not path.is_file():
            raise UsageError(f"{path} is no file of statistics", hint="moe calibrate MODEL --text FILE makes one")
        self.path = path
        self._found, metadata = read_header(path)
        # They are shown, and written into manifests: nothing in them that is no text.
        faults = [key for key in FACTS if not isinstance(metadata.get(key), str) or not metadata[key].isprintable()]
        if metadata.get("format") != FORMAT or faults or not re.fullmatch(r"\d{1,12}", metadata["tokens"], re.ASCII):
            raise CheckpointError(f"{path.name}: it is no file of statistics ({FORMAT})", hint=AGAIN)
        self._tokens = int(metadata["tokens"])
        self.calibration: dict[str, Any] = {
            **{key: metadata[key] for key in ("model", "text", "text_sha256")},
            "tokens": self._tokens,
            "statistics_sha256": sha256(path),
        }
        self._of_layer = cache(self._read_layer)

    def check(self, plan: Plan) -> None:
        """Raise UsageError unless these are of a model with the plan's matrices."""
        expected = tensors(plan)
        for name, (dtype, shape) in expected.items():
            info = self._found.get(name)
            if info is None:
                raise self._other(f"they have none of {name!r}")
            if info.dtype != dtype or info.shape != shape:
                found = f"{info.dtype} {list(info.shape)}"
                raise self._other(f"{name!r} is {found}, for this checkpoint it would be {dtype} {list(shape)}")
        more = self._found.keys() - expected.keys()
        if more:
            raise self._other(f"they have {min(more)!r}, which this checkpoint has not")

    def _other(self, what: str) -> UsageError:
        return UsageError(
            f"{self.path.name}: these statistics are of another model than this checkpoint: {what}",
            hint=f"they were collected by {self.calibration['model']}; calibrate a model made from this checkpoint",
        )

    def importance(self, name: str) -> np.ndarray | None:
        """How important each input of a matrix is, by its name in the model: [C] f32, above 0; None where it has none.

        Relative to the matrix's mean, and drawn to the layer's where an expert saw few tokens. Raises CheckpointError
        where a number is not finite or below 0, or the file has changed.
        """
        expert = _EXPERT.fullmatch(name)
        if expert is None:
            return self._blended(self._shares(name), self._tokens) if name in self._found else None
        layer, number, part = int(expert[1]), int(expert[2]), expert[3]
        tokens, of_layer = self._of_layer(layer, squares_name(layer, part))
        own = self._read(squares_name(layer, part), number)
        return self._blended(own, tokens[number], of_layer)

    @staticmethod
    def _blended(own: np.ndarray, tokens: float, others: np.ndarray | float = 1.0) -> np.ndarray:
        mixed: np.ndarray = (tokens * own + PRIOR * others) / (tokens + PRIOR)
        return mixed.astype(np.float32)

    def _read_layer(self, layer: int, squares: str) -> tuple[np.ndarray, np.ndarray]:
        """(tokens of each expert, [E]; the mean of what they read, each in proportion to its tokens, [C])."""
        tokens = self._read(tokens_name(layer))
        rows, cols = self._found[squares].shape
        total = np.zeros(cols)
        for expert in range(rows):
            total += tokens[expert] * self._read(squares, expert)
        seen = float(tokens.sum())
        return tokens, self._blended(total / max(seen, 1.0), seen)

    def _shares(self, name: str) -> np.ndarray:
        """The inputs' mean squares over their mean; ones where all are 0, which says nothing."""
        values = self._read(name)
        mean = values.mean()
        return values / mean if mean > 0 else np.ones_like(values)

    def _read(self, name: str, row: int | None = None) -> np.ndarray:
        """A tensor, or a row of it, in float64."""
        info = self._found[name]
        count, at = (info.bytes, info.offset) if row is None else _row(info, row)
        with self.path.open("rb") as file:
            file.seek(at)
            data = file.read(count)
        if len(data) != count:
            raise CheckpointError(f"{self.path.name}: it has become shorter while it was read", hint=AGAIN)
        values = np.frombuffer(data, _KINDS[info.dtype]).astype(np.float64)
        if not (np.isfinite(values) & (values >= 0)).all():
            raise CheckpointError(f"{self.path.name}: {name!r} has values that are no mean squares", hint=AGAIN)
        return values


def _row(info: TensorInfo, row: int) -> tuple[int, int]:
    size = info.bytes // info.shape[0]
    return size, info.offset + row * size


def is_calibration(entry: Any) -> bool:
    """Whether part of an untrusted manifest is what `Statistics.calibration` is."""
    words = ("model", "text", "text_sha256", "statistics_sha256")
    sound = isinstance(entry, dict) and all(isinstance(entry.get(key), str) for key in words)
    return sound and type(entry.get("tokens")) is int and entry["tokens"] >= 0
