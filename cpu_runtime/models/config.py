"""Reading a checkpoint's config.json with checks, so that an unknown variant fails at load and names the key."""

from __future__ import annotations

from typing import Any

from cpu_runtime.layers.rope import Frequencies, plain, yarn
from quant.errors import CheckpointError, UnsupportedError

MOST = 1 << 24  # of anything: what arrays are made of before a weight is read
MOST_LAYERS = 1000
MOST_ROTATED = 1 << 16


class Keys:
    """The keys of one config object; every reader checks the type and names the key in its error.

    `where` is the dotted path of the object inside config.json, for messages.
    """

    def __init__(self, values: dict[str, Any], where: str = "") -> None:
        self._values = values
        self._where = where

    def __contains__(self, key: str) -> bool:
        return self._values.get(key) is not None

    def _path(self, key: str) -> str:
        return f"{self._where}.{key}" if self._where else key

    def _value(self, key: str, default: Any) -> Any:
        value = self._values.get(key)
        if value is None:
            if default is None:
                raise CheckpointError(f"config.json: {self._path(key)!r} is missing")
            return default
        return value

    def _wrong(self, key: str, value: Any, expected: str) -> CheckpointError:
        return CheckpointError(f"config.json: {self._path(key)!r} is {value!r}, expected {expected}")

    def size(self, key: str, default: int | None = None, most: int = MOST) -> int:
        """A whole number from 1 to `most`."""
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            raise self._wrong(key, value, f"a whole number from 1 to {most}")
        return value

    def layers(self, key: str = "num_hidden_layers") -> int:
        """How many layers there are: few enough to be listed."""
        return self.size(key, most=MOST_LAYERS)

    def number(self, key: str, default: float | None = None) -> float:
        """A finite positive number."""
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e300:
            raise self._wrong(key, value, "a positive number")
        return float(value)

    def count(self, key: str, default: int | None = None) -> int:
        """A whole number from 0 to MOST."""
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MOST:
            raise self._wrong(key, value, f"a whole number from 0 to {MOST}")
        return value

    def word(self, key: str) -> str:
        """A string."""
        value = self._value(key, None)
        if not isinstance(value, str):
            raise self._wrong(key, value, "a string")
        return value

    def words(self, key: str) -> list[str] | None:
        """A list of strings, or None where the key is absent."""
        value = self._values.get(key)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
            raise self._wrong(key, value, "a list of strings")
        return value

    def inside(self, key: str) -> Keys:
        """The object under `key`; an empty one where the key is absent."""
        value = self._values.get(key)
        if value is None:
            return Keys({}, self._path(key))
        if not isinstance(value, dict):
            raise self._wrong(key, value, "an object")
        return Keys(value, self._path(key))

    def expect(self, key: str, *allowed: Any) -> None:
        """Refuse a value that the family's code does not implement; the first allowed one is also the default."""
        value = self._values.get(key, allowed[0])
        if value not in allowed:
            raise UnsupportedError(
                f"config.json: {self._path(key)!r} is {value!r}; this version runs {' or '.join(map(repr, allowed))}"
            )


def frequencies(keys: Keys, n_rotated: int) -> Frequencies:
    """How fast heads turn, from `rope_parameters` (new) or `rope_theta` and `rope_scaling` (older): plain or YaRN."""
    if n_rotated % 2 or not 0 <= n_rotated <= MOST_ROTATED:
        raise CheckpointError(
            f"config.json: {n_rotated} rotated dimensions of a head, expected an even number of at most {MOST_ROTATED}"
        )
    rope = keys.inside("rope_parameters" if "rope_parameters" in keys else "rope_scaling")
    theta = (rope if "rope_theta" in rope else keys).number("rope_theta")
    kind = "rope_type" if "rope_type" in rope else "type"
    if kind not in rope or rope.word(kind) == "default":
        return plain(theta, n_rotated)
    rope.expect(kind, "default", "yarn")
    return yarn(
        theta,
        n_rotated,
        factor=rope.number("factor"),
        original=rope.size("original_max_position_embeddings"),
        beta_fast=rope.number("beta_fast", 32),
        beta_slow=rope.number("beta_slow", 1),
        mscale=rope.number("mscale") if "mscale" in rope else None,
        mscale_all_dim=rope.number("mscale_all_dim") if "mscale_all_dim" in rope else None,
    )


def multiple_of_16(**sizes: int) -> None:
    """Refuse sizes of which a tile of 16 rows would hold parts of two heads."""
    for name, size in sizes.items():
        if size % 16:
            raise UnsupportedError(f"config.json: {name!r} is {size}; this version runs multiples of 16")
