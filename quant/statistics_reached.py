"""How far collecting statistics has come: what going on after a kill takes, in one file that is replaced as a whole."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from quant import layout
from quant.errors import CheckpointError
from quant.safetensors_file import TensorInfo, read_header
from quant.writer import FileWriter

_HIDDEN, _TOKENS, _MEANS = "hidden", "tokens", "means."
_KINDS = {"F32": "<f4", "I64": "<i8", "F64": "<f8"}
_NAMES = {np.dtype(kind): name for name, kind in _KINDS.items()}


@dataclass(frozen=True)
class Reached:
    """What is known of a model's first layers, `layers` of them.

    Shapes: hidden [T, D] f32, what the last one answers to the whole text · tokens [experts of all of them] i64 that
    each saw · means: mean squares [C] f64 of what each of their dense matrices read, by its name
    """

    layers: int
    hidden: np.ndarray
    tokens: np.ndarray
    means: dict[str, np.ndarray]


def write_reached(path: Path, reached: Reached, collected: str, written: int) -> None:
    """Put it in the place of what is there; `collected` identifies what by which model of which text.

    `written` is how many tensors of the statistics are. Raises ResourceError, and leaves what was there.
    """
    arrays = {_HIDDEN: reached.hidden, _TOKENS: reached.tokens}
    arrays |= {_MEANS + name: values for name, values in reached.means.items()}
    sizes = {name: (_NAMES[values.dtype], values.shape, values.nbytes) for name, values in arrays.items()}
    facts = {"collected": collected, "layers": str(reached.layers), "written": str(written)}
    with FileWriter(path) as file:
        file.write(layout.header(sizes, facts, align=8))
        for values in arrays.values():
            file.write(np.ascontiguousarray(values).data)


def read_reached(path: Path, collected: str) -> tuple[Reached, int] | None:
    """(what was kept, tensors written by then), None where it is of something else.

    Raises CheckpointError where it is no such file.
    """
    try:
        found, facts = read_header(path)
        if facts.get("collected") != collected:
            return None
        arrays = {name: _array(info) for name, info in found.items()}
        hidden, tokens = arrays.pop(_HIDDEN), arrays.pop(_TOKENS)
        if (hidden.dtype, hidden.ndim) != (np.float32, 2):
            raise ValueError("the hidden states are of another kind")
        means = {name.removeprefix(_MEANS): values for name, values in arrays.items()}
        return Reached(int(facts["layers"]), hidden, tokens, means), int(facts["written"])
    except (CheckpointError, KeyError, ValueError) as error:
        again = f"delete {path.parent} to begin anew"
        raise CheckpointError(f"{path} is not what calibrating keeps ({error})", hint=again) from error


def _array(info: TensorInfo) -> np.ndarray:
    kind = np.dtype(_KINDS[info.dtype])
    return np.fromfile(info.file, kind, info.bytes // kind.itemsize, offset=info.offset).reshape(info.shape)
