from __future__ import annotations

import mmap
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cpu_runtime.experts.drive import _forget
from tests.cpu_runtime.experts.test_mapped import resident

RECORD, AT = 653 * 4096, 4096


@pytest.mark.skipif(sys.platform != "linux", reason="mincore and fadvise")
def test_a_record_that_shares_large_pages_with_others_is_let_go_of(tmp_path: Path) -> None:
    path = tmp_path / "records"
    with path.open("w+b") as file:
        file.write(bytes(AT + 4 * RECORD))
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if resident(np.memmap(path, np.uint8, "r", AT, (4, RECORD))).any():
            pytest.skip("this file system does not let pages go")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapping:
            mapping.madvise(mmap.MADV_HUGEPAGE)
            sum(mapping[::4096])  # brings it back, in pages as large as the file system has
    record: Any = SimpleNamespace(layer=SimpleNamespace(path=path, offset=AT), record_bytes=RECORD)
    _forget(record, 1)
    assert resident(np.memmap(path, np.uint8, "r", AT, (4, RECORD)))[1] == 0
