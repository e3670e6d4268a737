from __future__ import annotations

import subprocess
import sys

import pytest

from cpu_runtime import heap

FAULTS_AND_BYTES = """
import resource, sys
import numpy as np, psutil
from cpu_runtime import heap

def used():
    arrays = [np.ones(480_000) for _ in range(8)]  # of 3.8 MB: those from 4 MB on have huge pages, and few faults

if sys.argv[1] == "kept":
    heap.keep()
used()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
used()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
held = psutil.Process().memory_info().rss
heap.give_back()
print(held - psutil.Process().memory_info().rss)
"""


def faults_and_bytes(how: str) -> tuple[int, int]:
    """(page faults of arrays that others of the same sizes were before, bytes given back after)."""
    done = subprocess.run([sys.executable, "-c", FAULTS_AND_BYTES, how], capture_output=True, text=True, check=True)
    faults, given = map(int, done.stdout.split())
    return faults, given


@pytest.mark.skipif(heap._glibc() is None, reason="another C library")
def test_arrays_are_made_of_those_before_until_memory_is_given_back() -> None:
    faults, given = faults_and_bytes("kept")
    assert faults < 100 < faults_and_bytes("as it was")[0]
    assert given > 20_000_000
