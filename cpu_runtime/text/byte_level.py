"""The printable stand-in that byte-level BPE (GPT-2) gives each byte in its vocabulary."""

from __future__ import annotations


def _chars() -> list[str]:
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


CHAR_OF_BYTE = dict(enumerate(_chars()))
BYTE_OF_CHAR = {char: byte for byte, char in CHAR_OF_BYTE.items()}
