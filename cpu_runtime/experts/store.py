"""The one interface through which layers reach routed experts."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from quant.container import ExpertRecords


class ExpertStore(Protocol):
    """Brings the records of one layer's active experts within reach of a kernel."""

    def records(self, layer: int) -> ExpertRecords:
        """How the layer's records are laid out."""
        ...

    def fetch(self, layer: int, experts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(slots, where): records as u8 [n, record_bytes], and for each asked expert the row it is in.

        Shapes: experts [A] i32, distinct -> where [A] i32. Valid until the next fetch.
        """
        ...
