"""The Jinja environment that chat templates run in.

Jinja's own sandbox keeps a template from reaching Python's internals; this one also bounds the time, the text and
the numbers it can make, since a template comes with a download and could otherwise hang or exhaust the machine.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Iterable, Iterator
from datetime import datetime
from time import monotonic
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

LONGEST_TEXT = 64 << 20  # characters, of one value and of all that a rendering puts out
LARGEST_NUMBER = 1 << 20  # as an argument of a call, or as a repeat count
LONGEST_RENDERING = 4.0  # seconds
# Filters that make text or lists as long as a number says; no published template uses them.
_UNBOUNDED = ("batch", "center", "format", "indent", "slice", "urlize", "wordwrap")


class Refused(Exception):
    """A template called raise_exception: it does not take these messages."""


class Sandbox(ImmutableSandboxedEnvironment):
    """One rendering at a time: call `start` before each."""

    intercepted_binops = frozenset({"+", "*", "**", "%", "//", "/"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"], finalize=self._count
        )
        for name in _UNBOUNDED:
            del self.filters[name]
        del self.globals["lipsum"]
        self.filters |= {"tojson": _to_json, "moe_timed": self._timed, "moe_joined": self._joined}
        self.globals |= {"raise_exception": _refuse, "strftime_now": lambda form: datetime.now().strftime(form)}
        self.start()

    def start(self) -> None:
        """Begin to count time and text anew."""
        self._deadline = monotonic() + LONGEST_RENDERING
        self._written = 0

    def names(self, source: str) -> set[str]:
        """Every variable that a template reads, its own included."""
        return {name.name for name in self.parse(source).find_all(nodes.Name) if name.ctx == "load"}

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        """Parse, and put a check into every loop and every `~`."""
        tree = super()._parse(source, name, filename)
        for loop in tree.find_all(nodes.For):
            loop.iter = nodes.Filter(loop.iter, "moe_timed", [], [], None, None, lineno=loop.lineno)
        return _without_concat(tree)

    def _check_time(self) -> None:
        if monotonic() > self._deadline:
            raise SecurityError("it renders without end")

    def _count(self, value: Any) -> Any:
        """What is put out, if it is not too much by now."""
        self._check_time()
        self._written += len(value) if isinstance(value, str) else 32
        if self._written > LONGEST_TEXT:
            raise SecurityError("it renders without end")
        return value

    def _timed(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            self._check_time()
            yield item

    def _joined(self, values: list[Any]) -> str:
        texts = [str(value) for value in values]
        if sum(map(len, texts)) > LONGEST_TEXT:
            raise SecurityError("a text is too long")
        return "".join(texts)

    def call_binop(self, context: Any, op: str, left: Any, right: Any) -> Any:
        """An operator's result, where its operands can't make it huge."""
        self._check_time()
        sizes = [_size(left), _size(right)]
        if op == "**" or (op == "%" and isinstance(left, str)):
            raise SecurityError(f"the operator {op} is not allowed here")
        if op == "+" and sum(sizes) > LONGEST_TEXT:
            raise SecurityError("a sum is too long")
        if op == "*" and (sizes[0] or 1) * (sizes[1] or 1) * (sizes != [0, 0] and _count(left, right)) > LONGEST_TEXT:
            raise SecurityError("a product is too long")
        if any(isinstance(n, int) and n.bit_length() > 256 for n in (left, right)):
            raise SecurityError("a number is too large")
        return self._operators[op](left, right)

    _operators = {
        "+": operator.add, "*": operator.mul, "%": operator.mod, "//": operator.floordiv, "/": operator.truediv,
    }  # fmt: skip

    def call(self, context: Any, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """A call, where no argument asks for something huge."""
        self._check_time()
        if any(isinstance(n, int) and abs(n) > LARGEST_NUMBER for n in (*args, *kwargs.values())):
            raise SecurityError("a number is too large")
        return super().call(context, function, *args, **kwargs)

    def wrap_str_format(self, value: Any) -> Any:
        """No `str.format`: a width in it makes text of any length."""
        if getattr(value, "__name__", "") in ("format", "format_map") and isinstance(value.__self__, str):
            raise SecurityError("str.format is not allowed here")
        return None


def _size(value: Any) -> int:
    """Length of a text or sequence; 0 for a number."""
    return len(value) if hasattr(value, "__len__") else 0


def _count(left: Any, right: Any) -> int:
    """The number in a product of a sequence and a number."""
    return max((n for n in (left, right) if isinstance(n, int)), default=1)


def _without_concat(node: Any) -> Any:
    """The tree with every `a ~ b` made a bounded join."""
    for field, value in list(node.iter_fields()):
        if isinstance(value, nodes.Node):
            setattr(node, field, _without_concat(value))
        elif isinstance(value, list):
            setattr(node, field, [_without_concat(v) if isinstance(v, nodes.Node) else v for v in value])
    if isinstance(node, nodes.Concat):
        listed = nodes.List(node.nodes, lineno=node.lineno)
        return nodes.Filter(listed, "moe_joined", [], [], None, None, lineno=node.lineno)
    return node


def _refuse(message: str) -> None:
    raise Refused(message)


def _to_json(value: Any, indent: int | None = None, separators: Any = None, sort_keys: bool = False) -> str:
    """JSON as models were trained on it: not escaped for HTML, and beyond ASCII as it is."""
    return json.dumps(value, ensure_ascii=False, indent=indent, separators=separators, sort_keys=sort_keys)
