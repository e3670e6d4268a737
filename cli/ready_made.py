"""Models that somebody has quantized and uploaded: fetched straight into the store, and checked against themselves."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from cli import link_rate, output, store
from cli.hub_listing import RemoteFile, Repository
from cli.meter import Meter
from cli.part_file import durable_bytes
from cli.pull_plan import PullPlan
from cli.transfer import download
from quant.building import building, partial_folder, refuse_existing, tidy
from quant.checksums import sha256
from quant.container import open_model
from quant.errors import CheckpointError
from quant.journal import Journal
from quant.manifest import MANIFEST, seal_fault
from quant.manifest_file import read_manifest
from quant.writer import FileWriter

_UPLOAD = "its upload went wrong; tell whoever made it"
_MEMORY = 150 << 20  # bytes of Python, the HTTP client and what is under way


class ReadyMade:
    """A quantized model on the Hub that is to be the model `target`."""

    def __init__(self, repository: Repository, folder: Path, target: Path, meter: Meter, resume: str) -> None:
        """Compare the manifest with what the Hub lists; `folder` has the small files. Raises CheckpointError."""
        self._repository, self._folder, self._target, self._meter = repository, folder, target, meter
        self._resume = resume
        manifest = read_manifest(folder)
        self._entries = manifest["files"]
        for name, entry in self._entries.items():
            file = repository.files.get(name)
            if file is None:
                raise CheckpointError(f"{repository.name}: {MANIFEST} names {name}, which the repository does not hold")
            announced = file.sha256 or (sha256(folder / name) if (folder / name).exists() else entry["sha256"])
            if (file.size, announced) != (entry["bytes"], entry["sha256"]):
                raise self._other(name)
        fault = seal_fault((folder / MANIFEST).read_bytes(), manifest)
        if fault:
            raise CheckpointError(f"{repository.name}: {MANIFEST}: {fault}", hint=_UPLOAD)

    def _other(self, name: str) -> CheckpointError:
        return CheckpointError(
            f"{self._repository.name}: {name} is not the file that {MANIFEST} describes",
            hint=_UPLOAD,
        )

    @property
    def next_step(self) -> str:
        """The command that goes on from here."""
        return f"moe chat {store.shortest(self._target)}"

    def done(self) -> Path | None:
        """The model's folder where it is in the store already; raises UsageError where another model is."""
        there = self._target / MANIFEST
        if there.exists() and there.read_bytes() == (self._folder / MANIFEST).read_bytes():
            return tidy(self._target)
        refuse_existing(self._target)
        return None

    def _missing_bytes(self, file: RemoteFile) -> int:
        there = partial_folder(self._target) / file.name
        return 0 if there.exists() else file.size - durable_bytes(there)

    def _large(self) -> list[RemoteFile]:
        return [self._repository.files[name] for name in self._entries if not (self._folder / name).exists()]

    def plan(self) -> PullPlan:
        """What it needs."""
        files = self._large()
        missing = [file for file in files if self._missing_bytes(file)]
        fetch = sum(map(self._missing_bytes, files))
        total = sum(entry["bytes"] for entry in self._entries.values())
        rate = link_rate.measure(self._repository, missing, fetch, self._meter)
        return PullPlan(
            becomes="quantized model",
            files=len(files),
            missing=len(missing),
            fetch=fetch,
            present=sum(file.size for file in files) - fetch,
            final=total,
            disk=fetch,
            memory=_MEMORY,
            folder=self._target.parent,
            rate=rate,
            seconds=fetch / rate if rate else None,
        )

    def run(self) -> Path:
        """Fetch what is missing and give the folder its name once all of it agrees with its manifest."""
        files = self._large()
        total = sum(file.size for file in files)
        with building(self._target) as partial:
            manifest = (self._folder / MANIFEST).read_bytes()
            # Drops what is of anything else.
            Journal(partial, hashlib.sha256(b"ready-made" + manifest).hexdigest(), resume=self._resume)
            present = total - sum(self._missing_bytes(file) for file in files)
            with output.progress("pulling", total, done=present) as advance:
                self._meter.begin(present, advance)
                for file in files:
                    download(self._repository, file, partial / file.name, self._meter)
                    # The Hub's SHA-256 is the manifest's; what it knows by a git id alone has not been compared yet.
                    if file.sha256 is None and sha256(partial / file.name) != self._entries[file.name]["sha256"]:
                        (partial / file.name).unlink()
                        raise self._other(file.name)
            small = [name for name in self._entries if (self._folder / name).exists()]
            for name in [*small, MANIFEST]:
                with FileWriter(partial / name) as copy:
                    copy.write((self._folder / name).read_bytes())
            open_model(partial).close()
        return self._target

    def conversion(self) -> dict[str, Any]:
        """None is made: that was done before the upload."""
        return {}
