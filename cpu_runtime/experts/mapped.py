"""Experts read in place from the mapped files: no copy and no start-up, for models that fit in memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from cpu_runtime.experts.prefault import Prefault, advise
from cpu_runtime.experts.store import Group
from quant.container import ExpertRecords, QuantizedModel
from quant.large_pages import in_large_pages


class MappedExperts:
    """Every record is its own slot; the kernel of the operating system keeps what is used in memory.

    Records that are on disk are asked for whole, before they are computed with: see `Prefault`. The file is otherwise
    marked random, so that a fault does not drag in the neighbouring expert that nobody asked for, but for its part in a
    large page: what was read in pages of 4 KiB stays in such pages, each process that maps it takes a fault for 16 of
    them, a third of the time of a short prompt, and looking them up takes up to a fifth of each token's. With `verify`
    a record's checksum is compared the first time.
    """

    def __init__(self, model: QuantizedModel, *, verify: bool = False) -> None:
        self._layers = {layer: model.expert_layer(layer) for layer in model.expert_layers}
        self._new = {layer: set(range(r.records.shape[0])) for layer, r in self._layers.items()}  # not asked for yet
        self._members = np.arange(max(map(len, self._new.values()), default=0), dtype=np.int32)
        self._verify = verify
        self._prefault = Prefault()
        for records in self._layers.values():
            advise(records, "MADV_RANDOM", 0, records.records.nbytes)
            in_large_pages(records.mapping, records.offset, records.records.nbytes)

    def records(self, layer: int) -> ExpertRecords:
        """How the layer's records are laid out."""
        return self._layers[layer]

    def fetch(
        self, layer: int, experts: np.ndarray, uses: np.ndarray | None = None, tokens: int = 1
    ) -> Iterator[Group]:
        """One group: the whole mapping, and each expert's own number as its slot."""
        mapped, new = self._layers[layer], self._new[layer]
        if new and (missing := new.intersection(experts.tolist())):
            self._bring(mapped, sorted(missing))
            new -= missing
        return iter((Group(mapped.records, self._members[: experts.size], experts),))

    def _bring(self, mapped: ExpertRecords, experts: list[int]) -> None:
        """Ask for whole records that were not asked for before, and check them where that is wanted."""
        self._prefault.bring(mapped, experts)
        if self._verify:
            for expert in experts:
                mapped.check(expert, mapped.records[expert])

    def expect(self, layer: int, experts: np.ndarray, tokens: int) -> None:
        """Nothing: the operating system reads ahead as it sees fit."""

    def close(self) -> None:
        """Let go of the threads that ask for records."""
        self._prefault.close()
