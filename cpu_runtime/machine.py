"""Which machine this is, so that measurements of another are not taken for its own."""

from __future__ import annotations

import platform


def name() -> str:
    """This machine as its measurements are filed: host, CPU and the instructions that kernels use."""
    from cpu_runtime.kernels.cpu import LOWERING

    return f"{platform.node()}, {platform.machine()}, {LOWERING}"
