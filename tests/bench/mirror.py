"""Generating from a model on one slow drive, and from two of which one holds a mirror.

    python -m tests.bench.mirror MODEL [--memory 2G] [--rates 500 500] [--tokens 32]

Drives are files under --scratch, mounted as loop devices and held to so many MB/s by a control group: root and cgroup
version 1 are needed, and twice the model's size on the disk. Prints tokens and bytes a second, and ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.bench.group import run_in
from tests.command import environment

CGROUP = Path("/sys/fs/cgroup/blkio")
_ROOM = 1.1  # of a drive, times the model's size


@contextmanager
def mounted(scratch: Path, name: str, size: int) -> Iterator[tuple[Path, str]]:
    """(where a new drive of so many bytes is mounted, its device's number)."""
    image, at = scratch / f"{name}.img", scratch / name
    with image.open("wb") as file:
        os.truncate(file.fileno(), size)
    at.mkdir()
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, at], check=True)
    try:
        number = at.stat().st_dev
        yield at, f"{os.major(number)}:{os.minor(number)}"
    finally:
        subprocess.run(["umount", at], check=True)


@contextmanager
def throttled(rates: dict[str, int]) -> Iterator[Path]:
    """A control group whose reads from devices are held to bytes a second."""
    group = CGROUP / f"moe-mirror-{os.getpid()}"
    group.mkdir()
    try:
        for device, rate in rates.items():
            (group / "blkio.throttle.read_bps_device").write_text(f"{device} {rate}")
        yield group
    finally:
        group.rmdir()


def generated(group: Path, home: Path, model: Path, options: list[str]) -> dict[str, float]:
    """What `moe bench` says of a model, run in a control group, its store in `home`."""
    command = [sys.executable, "-m", "cli", "bench", str(model), "-p", "0", "-r", "2", "-o", "json", *options]
    row: dict[str, float] = json.loads(run_in(group, command, environment(home)))[0]
    return row


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--memory", default="2G")
    parser.add_argument(
        "--rates", type=int, nargs=2, default=[500, 500], help="MB/s of the model's drive, the mirror's"
    )
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()))
    given = parser.parse_args()
    size = int(_ROOM * sum(file.stat().st_size for file in given.model.iterdir()))
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=given.scratch)))
        drives = [stack.enter_context(mounted(scratch, name, size)) for name in ("first", "second")]
        own, mirror = (Path(shutil.copytree(given.model, at / "model")) for at, _ in drives)
        os.sync()
        rates = {device: rate * 10**6 for (_, device), rate in zip(drives, given.rates, strict=True)}
        group = stack.enter_context(throttled(rates))
        options = ["-n", str(given.tokens), "--memory", given.memory]
        alone = generated(group, scratch, own, options)
        both = generated(group, scratch, own, [*options, "--mirror", str(mirror)])
    print("| drives | tokens/s | read, MB/s | hits |\n|---|---|---|---|")
    for drives_used, row in ((given.rates[:1], alone), (given.rates, both)):
        names = " and ".join(f"{rate} MB/s" for rate in drives_used)
        read, hits = row["disk_read_bytes_per_s"] / 1e6, row["expert_hit_rate"]
        print(f"| {names} | {row['tokens_per_s']:.2f} | {read:.0f} | {100 * hits:.0f} % |")
    ratio = both["tokens_per_s"] / alone["tokens_per_s"]
    print(f"{ratio:.2f} x the tokens, {sum(given.rates) / given.rates[0]:.2f} x the drives")


if __name__ == "__main__":
    main()
