"""Checkpoints from the Hugging Face Hub: what a repository holds, which of it we need, and getting it intact.

The library is asked what there is; the bytes are moved here (`transfer.py`), since it checks no checksums and
starts over after a kill. All files come from one commit.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from cli import hub_cache
from cli.checksum import remember
from cli.hub_http import TIMEOUT, tree
from cli.hub_listing import RemoteFile, Repository, checked
from cli.meter import Meter
from cli.names import HubName
from cli.patience import Attempts
from cli.transfer import download
from quant.checkpoint import INDEX, SINGLE, read_json, tensors_by_file
from quant.container import is_quantized
from quant.errors import CheckpointError

_SMALL = re.compile(r".*\.(json|jinja|model|txt)|LICENSE.*")
_LARGEST_SMALL = 1 << 30  # bytes; a tokenizer of a large vocabulary has 20 million


def look_up(name: HubName, say: Callable[[str], None] = lambda text: None) -> Repository:
    """What the Hub says of a repository, at one commit; raises ModelNotFound, AccessError, CheckpointError."""
    from huggingface_hub import HfApi

    attempts = Attempts(name, say)
    while True:
        try:
            commit = HfApi().model_info(name.repo, revision=name.revision, timeout=TIMEOUT).sha
            repository = checked(name, commit, tree(name, commit))
            break
        except Exception as error:  # the library's own, its HTTP client's, and what malformed answers raise inside it
            attempts.failed(error)
    if "config.json" not in repository.files:
        raise CheckpointError(f"{name} holds no config.json: it is not a model for transformers")
    return repository


def is_ready_made(folder: Path) -> bool:
    """Whether a repository, whose small files are in `folder`, holds a quantized model rather than a source."""
    own = read_json(folder / "config.json").get("quantization_config")
    return is_quantized(folder) and isinstance(own, dict) and own.get("quant_method") == "moe"


def small_files(repository: Repository) -> list[RemoteFile]:
    """Config, tokenizer, template, licence: what is needed to judge a model before its weights."""
    return [f for f in repository.files.values() if _SMALL.fullmatch(f.name) and f.size <= _LARGEST_SMALL]


def weight_files(repository: Repository, folder: Path) -> list[RemoteFile]:
    """The shards that the index names, once the small files are in `folder`; raises CheckpointError."""
    if INDEX not in repository.files:
        if SINGLE in repository.files:
            return [repository.files[SINGLE]]
        raise CheckpointError(
            f"{repository.name} holds neither {INDEX} nor {SINGLE}", hint="choose one with safetensors"
        )
    try:
        return [repository.files[name] for name in sorted(tensors_by_file(read_json(folder / INDEX)))]
    except KeyError as error:
        raise CheckpointError(
            f"{repository.name}: {INDEX} names {error}, which the repository does not hold"
        ) from error


def fetch(repository: Repository, files: list[RemoteFile], meter: Meter | None = None) -> Path:
    """Bring the files into the cache, each checked against the Hub's checksum, and return the folder of their names.

    What is there already is not fetched again; a file that differs is. Raises as `transfer.download` does.
    """
    meter = meter or Meter()
    for file in files:
        if hub_cache.found(repository, file) is not None and hub_cache.verified(repository, file) is None:
            meter.say(f"{file.name} in the Hub's cache is damaged: its checksum is not the Hub's; fetching it again")
            meter.grew(-file.size)
        if hub_cache.found(repository, file) is None:
            download(repository, file, hub_cache.blob(repository, file), meter)
            remember(hub_cache.link(repository, file), file)
    hub_cache.note_revision(repository)
    return hub_cache.snapshot(repository)
