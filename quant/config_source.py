"""How a checkpoint stores its tensors, guessed from config.json alone: enough for the sizes of what it will become."""

from __future__ import annotations

from typing import Any

from quant.encoding import FP8, INT4
from quant.errors import CheckpointError
from quant.plan import Plan
from quant.quantization_config import QuantizationConfig

_DTYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
_FP8_ROLES = frozenset({"attention", "shared", "mlp"})


class ConfigSource:
    """The dtype of every tensor that a plan reads, as checkpoints of the families are published.

    With fp8, the experts and the linear layers around them are fp8; with int4, the routed experts alone are int4. All
    else has the config's dtype, bf16 where it names none. Raises UnsupportedError for any other quantization.
    """

    def __init__(self, config: dict[str, Any], plan: Plan) -> None:
        quantization = QuantizationConfig(config)
        quantization.check_method("config.json speaks of quantized weights")
        plain, method = _plain(config), quantization.method
        if method == "compressed-tensors":
            quantization.check_int4("config.json speaks of packed weights")
        self._experts = {"fp8": FP8, "compressed-tensors": INT4}.get(method or "", plain)
        self._dense = {
            dense.source: FP8 if method == "fp8" and dense.role in _FP8_ROLES and dense.kind == "matrix" else plain
            for dense in plan.dense
        }

    def dtype(self, name: str) -> str:
        """A safetensors dtype, or INT4; what is no dense tensor of the plan is an expert's."""
        return self._dense.get(name, self._experts)


def _plain(config: dict[str, Any]) -> str:
    text = config.get("text_config")
    for place in (config, text if isinstance(text, dict) else {}):
        for key in ("dtype", "torch_dtype"):
            value = place.get(key)
            if value is not None:
                if not isinstance(value, str) or value not in _DTYPES:
                    raise CheckpointError(f"config.json: {key!r} is {value!r}, expected one of {', '.join(_DTYPES)}")
                return _DTYPES[value]
    return "BF16"
