"""Sizes of memory as people write them: 24G, 512M, 1.5GiB."""

from __future__ import annotations

import re

from quant.errors import UsageError

_SIZE = re.compile(r"(?P<number>\d{1,15}(\.\d{1,6})?) ?(?P<unit>[kMGT]?)(?P<binary>i?)B?", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def parse(option: str, text: str) -> int:
    """Bytes; G is a thousand million, Gi is 2^30. Raises UsageError naming the option."""
    found = _SIZE.fullmatch(text.strip())
    size = 0
    if found:
        size = int(float(found["number"]) * (1024 if found["binary"] else 1000) ** _POWERS[found["unit"].lower()])
    if size < 1:
        raise UsageError(f"{option} {text}: expected a size such as 24G or 16GiB")
    return size
