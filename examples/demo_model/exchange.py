"""The unit that conversations are made of."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Exchange:
    """One question, the thought behind its answer, and the answer; `result` is a number to go on from.

    `aloud` says that the thought is needed to get the answer right: where there is no thinking, the answer holds it.
    """

    user: str
    thought: str
    answer: str
    result: int | None = None
    aloud: bool = False
