"""Which model a job runs, and the names under which requests may ask for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from pipemax_worker.job.names import ModelName
from pipemax_worker.job.places import FolderUri, PlaceKind, is_hub_id, parse_place
from pipemax_worker.job.section import BrokenRule, Section


class ModelSpec(Section):
    """The model: a folder in Hugging Face's format (config.json, tokenizer, safetensors)."""

    uri: FolderUri
    """Where it is: a path, `hostPath:///path`, `pvc://claim/path`, `s3://bucket/key`, or a hub id
    such as `organisation/name`. An existing path wins over a hub id."""

    revision: Annotated[str, StringConstraints(min_length=1, max_length=256)] | None = None
    """Branch, tag or commit of a hub id. Absent: its main branch. Give a commit to a job that
    runs for days: a branch may move, and a job goes on with the model that it began with only."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type that the model computes in. `auto`: float32 on a CPU; on a GPU the checkpoint's
    own, or bfloat16 where that is float32."""

    name: ModelName | None = None
    """The name that requests may give as `model` and that responses carry. Absent: the last part
    of `uri`."""

    aliases: Annotated[tuple[ModelName, ...], Field(strict=False, max_length=16)] = ()
    """Further names that requests may give as `model`, each once."""

    cache_dir: FolderUri | None = None
    """Folder of the node where models from a hub or an object store are kept, for all jobs: a path,
    `hostPath:///path` or `pvc://claim/path`. Absent: the hub's own cache folder (`HF_HUB_CACHE`,
    `HF_HOME`), and `pipemax-models` beside it for object stores."""

    @property
    def names(self) -> tuple[str, ...]:
        """All names that requests may give; the first is the one that responses carry."""
        own = self.name or self._last_part_of_uri()
        # Whoever names a model by its hub id will write the same id into the requests.
        hub_id = (self.uri,) if self.name is None and is_hub_id(self.uri) else ()
        return tuple(dict.fromkeys((own, *self.aliases, *hub_id)))

    def _last_part_of_uri(self) -> str:
        place = parse_place(self.uri)
        parts = [part for part in (place.owner, *place.path.split("/")) if part not in ("", ".")]
        return parts[-1] if parts else "model"

    def broken_rules(self) -> Iterator[BrokenRule]:
        if self.revision is not None and not is_hub_id(self.uri):
            yield BrokenRule("revision", f"expected only with a hub id; uri is {self.uri!r}")
        if self.cache_dir is not None and parse_place(self.cache_dir).kind is PlaceKind.S3:
            yield BrokenRule("cacheDir", f"found {self.cache_dir!r}, expected a folder of the node")
        seen = {self.name}
        for position, alias in enumerate(self.aliases):
            if alias in seen:
                yield BrokenRule(f"aliases.{position}", f"found {alias!r} a second time")
            seen.add(alias)
