"""Arguments as values: JSON, and text whose type must be found."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from cpu_runtime.text.tools.syntax import Schemas

_KINDS: dict[type, set[str]] = {
    bool: {"boolean"},
    int: {"integer", "number"},
    float: {"number"},
    list: {"array"},
    dict: {"object"},
    type(None): {"null"},
}
_PYTHON_WORDS = {"True": True, "False": False, "None": None}


def read_object(text: str) -> dict[str, Any] | None:
    """A JSON object, or None where the text is none."""
    try:
        value = _read(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def typed(name: str, texts: Mapping[str, str], schemas: Schemas) -> dict[str, Any]:
    """The arguments of a tool from a syntax that writes strings as they are and all else as JSON.

    The tool's schema decides: text where only a string may be; where a string may be too, JSON of one of the other
    types, else text; JSON where no string may be, or where there is no schema. What is no JSON, or a string in quotes,
    stays text as it is: whoever runs the tool sees what the model wrote.
    """
    properties = schemas.get(name, {}).get("properties")
    properties = properties if isinstance(properties, Mapping) else {}
    return {key: _typed(text, _types(properties.get(key))) for key, text in texts.items()}


def _typed(text: str, types: set[str]) -> Any:
    if types == {"string"}:
        return text
    word = text.strip()
    if word in _PYTHON_WORDS and types & _KINDS[type(_PYTHON_WORDS[word])]:
        return _PYTHON_WORDS[word]  # templates that print earlier values without JSON teach models to write these
    try:
        value = _read(text)
    except ValueError:
        return text
    if isinstance(value, str) or ("string" in types and not types & _KINDS[type(value)]):
        return text
    return value


def _types(schema: Any) -> set[str]:
    """The JSON types that a schema allows as far as it says so plainly; none of them where it does not."""
    if not isinstance(schema, Mapping):
        return set()
    kinds = schema.get("type")
    if isinstance(kinds, str):
        return {kinds}
    if isinstance(kinds, list):
        return {kind for kind in kinds if isinstance(kind, str)}
    for several in ("anyOf", "oneOf"):
        if isinstance(schema.get(several), list):
            found = [_types(one) for one in schema[several]]
            return set().union(*found) if all(found) else set()
    values = schema.get("enum")
    return {"string"} if isinstance(values, list) and values and all(isinstance(v, str) for v in values) else set()


def _read(text: str) -> Any:
    """Strict JSON: no NaN, no infinity, no half of a character; raises ValueError."""
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    return value
