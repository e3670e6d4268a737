"""How long this machine takes to quantize a model."""

from __future__ import annotations

import time

import numpy as np

from quant.formats import ENCODABLE
from quant.preview import Preview

_SAMPLE = (512, 4096)  # weights that are packed to see how fast that goes


def measure(sizes: Preview, *, calibrated: bool) -> float:
    """Seconds, from a sample in the format of most weights; 0 for formats that are only copied.

    Statistics take time too: `calibrated` is whether codes are chosen by them.
    """
    form = ENCODABLE.get(sizes.roles[0].formats[0])
    if form is None:
        return 0.0
    sample = np.random.default_rng(0).standard_normal(_SAMPLE, np.float32)
    importance = np.ones(_SAMPLE[1], np.float32) if calibrated else None
    form.pack_measured(sample, importance)  # compiled now
    begun_at = time.perf_counter()
    form.pack_measured(sample, importance)
    return (time.perf_counter() - begun_at) * sizes.weights / sample.size
