"""The seed of each choice: a stable function of what identifies it, never of when it ran."""

from __future__ import annotations

import hashlib

from pipemax_worker.contract.request import RecordKey


def derive_seed(
    key: RecordKey, choice: int, body_seed: int | None, default_seed: int | None
) -> int:
    """64 bits for one choice.

    A body's own seed alone decides (two lines with the same seed draw the same numbers); without
    one it is the job's seed and the record's key. Hashed, so that choice 1 of seed 7 is not
    choice 0 of seed 8.
    """
    if body_seed is not None:
        source = ["body", str(body_seed), str(choice)]
    else:
        source = ["key", str(default_seed or 0), key.file, str(key.offset), str(choice)]
    # surrogateescape'd file names are legal on POSIX and must hash too
    digest = hashlib.blake2b("\0".join(source).encode("utf-8", "surrogateescape"), digest_size=8)
    return int.from_bytes(digest.digest(), "little")
