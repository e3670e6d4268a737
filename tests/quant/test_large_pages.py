"""Files written, and mapped, by the large page."""

from __future__ import annotations

import mmap
from pathlib import Path

import pytest

from quant.large_pages import SIZE, in_large_pages, page_by_page
from quant.writer import TEMPORARY, FileWriter


@pytest.mark.parametrize("at", [0, 1, SIZE - 1, SIZE, 3 * SIZE + 5])
@pytest.mark.parametrize("size", [0, 1, SIZE, SIZE + 1, 2 * SIZE + 7])
def test_pieces_are_all_of_the_data_and_end_where_large_pages_do(at: int, size: int) -> None:
    data = bytes(range(256)) * (size // 256) + bytes(size % 256)
    pieces = list(page_by_page(data, at))
    assert b"".join(pieces) == data
    ends = [at]
    for piece in pieces:
        ends.append(ends[-1] + len(piece))
    assert all(end % SIZE == 0 for end in ends[1:-1])
    assert all(0 < len(piece) <= SIZE for piece in pieces)


def test_the_system_is_handed_whole_large_pages(tmp_path: Path) -> None:
    sizes = []
    with FileWriter(tmp_path / "file") as file:
        for _ in range(8):
            file.write(b"x" * 900_001)
            sizes.append((tmp_path / f"file{TEMPORARY}").stat().st_size)
    assert max(sizes) >= 2 * SIZE
    assert all(size % SIZE == 0 for size in sizes)
    assert (tmp_path / "file").read_bytes() == b"x" * 8 * 900_001


def test_asking_for_large_pages_changes_no_byte(tmp_path: Path) -> None:
    path = tmp_path / "file"
    data = bytes(range(256)) * 40
    path.write_bytes(data)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        in_large_pages(mapped, 5000, 100)
        in_large_pages(mapped)
        assert mapped[:] == data
