"""The model that `tests.synth` writes in our format, as a GGUF file: same config, same shapes, bits as near as can be.

What a recipe stores as q4 (4.53 bits) is Q4_K here (4.5), q8 is Q8_0 (8.5 both), the rest float32. Rows repeat as they
do there, so the whole model is never in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from cpu_runtime import models
from quant.plan import Dense
from quant.recipe import load_recipe
from tests.bench.llama.architectures import ARCHITECTURES, Architecture
from tests.bench.llama.blocks import F32, Q4_K, Q8_0, nbytes, rows
from tests.synth import deviation

FORMATS = {"q4": Q4_K, "q8": Q8_0}
_DRAWN_BYTES = 16 << 20  # of a tensor; then it repeats
_ALIGNMENT = 32


@dataclass(frozen=True)
class Tensor:
    """One tensor of the file, its axes as NumPy has them (GGUF lists them backwards).

    Weights deviate by `deviation` from 0, or from `centre` where it is given: in vectors.
    """

    name: str
    form: str
    shape: tuple[int, ...]
    deviation: float
    centre: float | None = None

    @property
    def bytes(self) -> int:
        """On disk, without padding."""
        return nbytes(self.form, self.shape)

    def write(self, file: BinaryIO, random: np.random.Generator) -> None:
        """Write the data: some rows drawn anew, again and again."""
        if self.centre is not None:
            file.write((self.centre + self.deviation * random.standard_normal(self.shape)).astype(np.float32).tobytes())
            return
        row_bytes = nbytes(self.form, self.shape[-1:])
        left = self.bytes // row_bytes
        drawn = rows(self.form, min(left, max(1, _DRAWN_BYTES // row_bytes)), self.shape[-1], self.deviation, random)
        while left:
            file.write(drawn[:left].data)
            left -= min(left, len(drawn))


def tensors(config: dict[str, Any], recipe: str) -> Iterator[Tensor]:
    """Every tensor of the model."""
    family, architecture = models.find(config), ARCHITECTURES[config["model_type"]]
    plan, formats = family.plan(family.read(config), ()), load_recipe(recipe).formats
    for dense in plan.dense:
        yield _dense(architecture, dense, FORMATS.get(formats.get(dense.role, ""), F32))
    for layer in plan.experts:
        for part in layer.parts:
            shape = (layer.n_experts, *part.shape)
            yield Tensor(
                architecture.experts(layer.layer, part.name), FORMATS[formats["expert"]], shape, shape[-1] ** -0.5
            )


def _dense(architecture: Architecture, dense: Dense, form: str) -> Tensor:
    name = architecture.tensor(dense.name)
    shape = tuple(n for n in dense.shape if n != 1)  # without the axis of one that convolutions and gates have
    if dense.kind == "matrix":
        return Tensor(name, form, shape, deviation(dense))
    centre = 1.0 if dense.role == "norm" else -1.0 if name.endswith("ssm_a") else 0.0
    return Tensor(name, F32, shape, deviation(dense), centre)


def write_gguf(config: dict[str, Any], path: Path, recipe: str = "int4") -> Path:
    """Write the model to a new file and return its path."""
    return write_tensors(config, path, list(tensors(config, recipe)))


def write_tensors(config: dict[str, Any], path: Path, described: Sequence[Tensor]) -> Path:
    """The same with these tensors, in whatever formats."""
    from gguf import GGMLQuantizationType, GGUFWriter

    architecture = ARCHITECTURES[config["model_type"]]
    writer = GGUFWriter(path, architecture.name)
    add: dict[type, Any] = {
        int: writer.add_uint32,
        float: writer.add_float32,
        str: writer.add_string,
        list: writer.add_array,
    }
    for key, value in architecture.keys(config.get("text_config", config)).items():
        add[type(value)](key, value)
    for tensor in described:
        kind = GGMLQuantizationType[tensor.form]
        writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), tensor.bytes, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    random = np.random.default_rng(0)
    with path.open("r+b") as file:
        file.seek(0, 2)
        for tensor in described:
            file.write(bytes(-file.tell() % _ALIGNMENT))
            tensor.write(file, random)
        file.write(bytes(-file.tell() % _ALIGNMENT))
    return path
