"""Models to fetch, a source that misbehaves as told, and fetching in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from random import Random

from pipemax_worker.model_store.checksum import Checksum, ChecksumKind
from pipemax_worker.model_store.models import HubModel, Listing, RemoteFile, RemoteModel, S3Model
from pipemax_worker.model_store.source import SourceUnavailableError

REPO_ID = "org/small"
WEIGHT_BYTES = 400_000


def small_model(seed: int = 0, num_shards: int = 1) -> dict[str, bytes]:
    """A model's files by name; nothing reads what is in them, but for the index."""
    files = {
        "config.json": b"{}",
        "tokenizer.json": b'{"tokens": %d}' % seed,
        "tokenizer_config.json": b"[]",
        "README.md": b"# hello",
    }
    if num_shards == 1:
        return files | {"model.safetensors": Random(seed).randbytes(WEIGHT_BYTES)}
    shards = [f"model-{n:05}-of-{num_shards:05}.safetensors" for n in range(1, num_shards + 1)]
    index = {"weight_map": {f"layer.{shard}": shard for shard in shards}}
    files["model.safetensors.index.json"] = json.dumps(index).encode()
    return files | {
        shard: Random(f"{seed}{shard}").randbytes(WEIGHT_BYTES // num_shards) for shard in shards
    }


class FakeSource:
    """Serves one file in small chunks. ``plan`` says of each coming ``read`` after how many bytes
    it breaks off with an error; afterwards all is well."""

    place = "a fake source"

    def __init__(self, content: bytes, plan: tuple[int, ...] = ()) -> None:
        self.content = content
        self.offsets: list[int] = []
        self._plan = list(plan)

    def list_files(self) -> Listing:
        return Listing((self.file(),))

    def file(self, is_verified: bool = True) -> RemoteFile:
        import hashlib

        checksum = Checksum(ChecksumKind.SHA256, hashlib.sha256(self.content).hexdigest())
        return RemoteFile("weights", len(self.content), "e", checksum if is_verified else None)

    def read(self, version: str, file: RemoteFile, offset: int) -> Iterator[bytes]:
        self.offsets.append(offset)
        end = offset + self._plan.pop(0) if self._plan else None
        rest = self.content[offset:end]
        for start in range(0, len(rest), 1000):
            yield rest[start : start + 1000]
        if end is not None:
            raise SourceUnavailableError("the connection broke")


class FetchingProcess:
    """``fetch_model`` in a process of its own, which can be killed."""

    def __init__(
        self, model: RemoteModel, cache_folder: Path, environment: Mapping[str, str]
    ) -> None:
        name = model.uri if isinstance(model, S3Model) else model.repo_id
        self.process = subprocess.Popen(
            [sys.executable, __file__, name, str(cache_folder)],
            env={**os.environ, **environment, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.PIPE,
            text=True,
        )

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def wait_for_line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def end(self) -> list[str]:
        """Everything it has said since; the last line is the model's folder."""
        said, _ = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, said
        return said.splitlines()


def _fetch(name: str, cache_folder: str) -> None:
    from pipemax_worker.model_store.fetch import FetchSettings, fetch_model
    from pipemax_worker.model_store.watch import Watch

    model = S3Model(name) if name.startswith("s3://") else HubModel(name)
    watch = Watch(say=lambda text: print(text, flush=True))
    print(fetch_model(model, FetchSettings(Path(cache_folder)), watch).folder)


if __name__ == "__main__":
    _fetch(*sys.argv[1:])
