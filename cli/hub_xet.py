"""Files that the Hub gives out through Xet alone: the library fetches them, and we check what it brought."""

from __future__ import annotations

import shutil
from pathlib import Path

from cli import checksum
from cli.hub_errors import explained
from cli.hub_listing import RemoteFile, Repository
from quant.errors import CheckpointError
from quant.writer import sync_folder


def download(repository: Repository, file: RemoteFile, target: Path) -> None:
    """Let the library bring a file to `target`; raises as `transfer.download` does. A stopped one starts over."""
    from huggingface_hub import hf_hub_download

    own = target.with_name(target.name + ".xet")
    try:
        try:
            path = hf_hub_download(repository.name.repo, file.name, revision=repository.commit, local_dir=own)
        except Exception as error:  # whatever the library and its own client raise
            raise explained(error, repository.name) from error
        if not checksum.is_intact(Path(path), file):
            raise CheckpointError(f"{file.name} came damaged: its checksum is not the Hub's", hint="try again later")
        Path(path).replace(target)
        sync_folder(target.parent)
    finally:
        shutil.rmtree(own, ignore_errors=True)
