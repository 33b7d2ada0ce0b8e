"""Which of a source's files a run reads: no duplicate weights in other formats, no training state.

Pure, but for the index of the weights, which the caller reads.
"""

from __future__ import annotations

from collections.abc import Container

import msgspec

from pipemax_worker.dataset.model_weights import INDEX_FILE, WEIGHTS_FILE, parse_weight_index
from pipemax_worker.errors import ModelNotFoundError
from pipemax_worker.model_store.models import Listing, NeededFiles, RemoteFile, derive_version

REQUIRED_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json")
_OPTIONAL_FILES = (
    "generation_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    INDEX_FILE,
)
_MAX_FILES_NAMED = 3


def find_weight_index(listing: Listing) -> RemoteFile | None:
    """The file that names the shards; None for weights in a single file."""
    return next((file for file in listing.files if file.name == INDEX_FILE), None)


def select_files(listing: Listing, weight_index: bytes | None, place: str) -> NeededFiles:
    """``weight_index``: the content of :func:`find_weight_index`'s file.

    Raises ModelNotFoundError naming what a model folder must hold and the source lacks.
    """
    by_name = {file.name: file for file in listing.files}
    if not by_name:
        raise ModelNotFoundError(f"{place}: no files there; check spec.model.uri")
    if weight_index is None:
        weight_names = [WEIGHTS_FILE]
    else:
        weight_names = parse_weight_index(weight_index, f"{place}: {INDEX_FILE}")
    _refuse_gaps([*REQUIRED_FILES, *weight_names], by_name.keys(), place)
    small = [by_name[n] for n in (*REQUIRED_FILES, *_OPTIONAL_FILES) if n in by_name]
    needed = NeededFiles("", tuple(small), tuple(by_name[name] for name in weight_names))
    version = listing.version or derive_version(needed.all)
    return msgspec.structs.replace(needed, version=version)


def _refuse_gaps(wanted: list[str], found: Container[str], place: str) -> None:
    missing = [name for name in wanted if name not in found]
    if missing:
        more = len(missing) - _MAX_FILES_NAMED
        named = ", ".join(missing[:_MAX_FILES_NAMED]) + (f" and {more} more" if more > 0 else "")
        raise ModelNotFoundError(
            f"{place}: {named}: not found; a model folder holds {', '.join(REQUIRED_FILES)} and "
            f"its weights as {WEIGHTS_FILE}, or as the shards named in {INDEX_FILE} (other "
            "formats, such as .bin and .gguf, are not read)"
        )
