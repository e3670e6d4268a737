"""The one interface through which layers reach routed experts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np

from quant.container import ExpertRecords


class Group(NamedTuple):
    """Experts within reach of a kernel: `members` says which of the asked ones, `slots` the row each is in.

    Shapes: records [n, at least record_bytes] u8 · members, slots [G] i32
    """

    records: np.ndarray
    members: np.ndarray
    slots: np.ndarray

    def some(self, first: int, last: int) -> Group:
        """Those numbered first .. last - 1."""
        return Group(self.records, self.members[first:last], self.slots[first:last])


class ExpertStore(Protocol):
    """Brings the records of one layer's active experts within reach of a kernel."""

    def records(self, layer: int) -> ExpertRecords:
        """How the layer's records are laid out."""
        ...

    def fetch(
        self, layer: int, experts: np.ndarray, uses: np.ndarray | None = None, tokens: int = 1
    ) -> Iterator[Group]:
        """Begin to bring in the experts, [A] i32 and distinct; each comes in one group, as soon as it is there.

        `uses` says how many of the `tokens` activate each, [A] i64; one of one if left out.
        A group is valid until the next one is asked for. Raises CheckpointError where a record can't be read.
        """
        ...

    def expect(self, layer: int, experts: np.ndarray, tokens: int) -> None:
        """Experts that a layer is likely to be asked for soon, for so many tokens, the surest first."""
        ...

    def close(self) -> None:
        """Let go of threads and memory."""
        ...
