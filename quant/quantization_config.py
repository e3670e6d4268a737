"""What config.json says of a checkpoint's own quantization: the block of fp8, the group of int4, or something else."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

from quant.errors import UnsupportedError

KEY = "quantization_config"
SUPPORTED = "fp8 in blocks, compressed-tensors pack-quantized int4 in groups of 32, and no quantization"
_METHODS = ("fp8", "compressed-tensors")
_INT4 = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32, "actorder": None}


class QuantizationConfig:
    """`quantization_config` of a config.json, wherever it stands: at the top, in `text_config`, or in both."""

    def __init__(self, config: dict[str, Any]) -> None:
        text = config.get("text_config")
        places = {KEY: config.get(KEY), f"text_config.{KEY}": text.get(KEY) if isinstance(text, dict) else None}
        self._found = {place: value for place, value in places.items() if value is not None}
        for place, value in self._found.items():
            if not isinstance(value, dict):
                raise UnsupportedError(f"config.json: {place} is {value!r}, expected an object")

    def check_method(self, what: str) -> None:
        """Raise UnsupportedError where the method explains `what`: tensors that can't be read, or are not there."""
        for place, found in self._found.items():
            method = found.get("quant_method")
            if method not in _METHODS:
                raise UnsupportedError(
                    f"{what}, and {place}.quant_method is {method!r}; this version reads {SUPPORTED}",
                    hint="pull the model as its authors published it",
                )

    @property
    def method(self) -> str | None:
        """The method's name; None where nothing is quantized."""
        return next((str(found.get("quant_method")) for found in self._found.values()), None)

    def check_int4(self, what: str) -> None:
        """Raise UnsupportedError unless packed tensors are int4 as this version reads it."""
        if self.int4_fault:
            raise UnsupportedError(f"{what}: {self.int4_fault}", hint=f"this version reads {SUPPORTED}")

    @cached_property
    def fp8_block(self) -> tuple[int, int]:
        """(rows, inputs) that share a scale of an fp8 matrix."""
        for place, found in self._found.items():
            block = found.get("weight_block_size")
            if block is not None:
                if not isinstance(block, list) or len(block) != 2 or not all(type(b) is int and b > 0 for b in block):
                    raise UnsupportedError(f"{place}.weight_block_size is {block!r}, expected [rows, inputs]")
                return block[0], block[1]
        return 128, 128

    @cached_property
    def int4_fault(self) -> str | None:
        """What makes packed tensors something else than int4 in groups of 32, or that nothing says what they are."""
        if not self._found:
            return f"{KEY} is missing, which says what packed tensors hold"
        for key, value, expected in self._int4_claims():
            if value != expected or type(value) is not type(expected):
                return f"{key} is {value!r}, expected {expected!r}"
        return None

    def _int4_claims(self) -> Iterator[tuple[str, Any, Any]]:
        """(key, value, what this version reads) of everything that changes what packed tensors mean."""
        for place, found in self._found.items():
            yield f"{place}.quant_method", found.get("quant_method"), "compressed-tensors"
            yield f"{place}.format", found.get("format"), "pack-quantized"
            groups = found.get("config_groups")
            if not isinstance(groups, dict) or not groups:
                yield f"{place}.config_groups", groups, {}
                return
            for name, group in groups.items():
                weights = group.get("weights") if isinstance(group, dict) else None
                where = f"{place}.config_groups.{name}"
                if not isinstance(weights, dict):
                    yield f"{where}.weights", weights, {}
                    return
                if group.get("format") is not None:
                    yield f"{where}.format", group["format"], "pack-quantized"
                for key, expected in _INT4.items():
                    yield f"{where}.weights.{key}", weights.get(key), expected
