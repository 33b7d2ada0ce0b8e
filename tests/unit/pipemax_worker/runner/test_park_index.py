"""``park.json``: round trips, and everything for which it is not believed."""

import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from kit.engine import make_geometry, make_request
from pipemax_worker.contract.request import (
    RecordKey,
    RequestProgress,
    SamplingParams,
    TokenLogprobs,
)
from pipemax_worker.errors import KVTierError
from pipemax_worker.runner.nvme_folder import RunFolder
from pipemax_worker.runner.park_index import (
    ParkedEntry,
    ParkIdentity,
    ParkIndex,
    find_geometry_fault,
    find_identity_fault,
    give_back_park_index,
    prompt_digest,
    sampling_digest,
    take_park_index,
    without_kv,
    write_park_index,
)

IDENTITY = ParkIdentity("job", "model", "2026-11-22", "float32", "float32")
GEOMETRY = make_geometry(num_stages=2, device=10, host=10, nvme=8)
PROGRESS = RequestProgress(
    key=RecordKey("a.jsonl", 17),
    choice=1,
    output_token_ids=(5, 6),
    logprobs=(TokenLogprobs(5, -0.25, ((5, -0.25), (9, -1.5))), TokenLogprobs(6, -0.1)),
    num_computed_tokens=6,
    nvme_slots=(3, 1),
)
INDEX = ParkIndex(IDENTITY, GEOMETRY, (ParkedEntry(PROGRESS, "prompt", "sampling"),))


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    path = tmp_path / "run"
    path.mkdir()
    return RunFolder(path, is_lasting=True)


def test_it_is_used_once(folder: RunFolder) -> None:
    write_park_index(folder, INDEX)
    assert [path.name for path in folder.path.iterdir()] == ["park.json"]
    assert take_park_index(folder) == INDEX
    assert not folder.park_index.exists()
    assert take_park_index(folder) is None


def test_what_was_not_used_can_be_given_back(folder: RunFolder) -> None:
    write_park_index(folder, INDEX)
    take_park_index(folder)
    give_back_park_index(folder)
    assert take_park_index(folder) == INDEX
    give_back_park_index(RunFolder(folder.path / "gone", is_lasting=True))


def test_it_is_there_whole_or_not_at_all(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="No space"):
        write_park_index(folder, INDEX)
    assert not folder.park_index.exists()


def change(folder: RunFolder, **fields: Any) -> None:
    content = json.loads(folder.park_index.read_bytes())
    folder.park_index.write_text(json.dumps(content | fields))


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"version": 2}, "its format is version 2, expected 1"),
        ({"index": {}}, "its index is damaged"),
        ({"checksum": 3}, "cannot be read"),
    ],
)
def test_what_is_not_believed(folder: RunFolder, fields: dict[str, Any], fault: str) -> None:
    write_park_index(folder, INDEX)
    change(folder, **fields)
    with pytest.raises(KVTierError, match=fault):
        take_park_index(folder)
    assert take_park_index(folder) is None, "used up all the same"


@pytest.mark.parametrize("keep", [0, 1, 40, 200])
def test_a_torn_file(folder: RunFolder, keep: int) -> None:
    write_park_index(folder, INDEX)
    os.truncate(folder.park_index, keep)
    with pytest.raises(KVTierError, match="cannot be read"):
        take_park_index(folder)


@pytest.mark.parametrize(
    ("field", "fault"),
    [
        ("model", "another model"),
        ("job", "parameters"),
        ("ledger_created_at", "earlier output"),
        ("dtype", "another dtype"),
        ("kv_dtype", "KV has another dtype"),
    ],
)
def test_whose_it_is(field: str, fault: str) -> None:
    assert find_identity_fault(INDEX, IDENTITY) is None
    other = msgspec.structs.replace(IDENTITY, **{field: "another"})
    assert fault in (find_identity_fault(INDEX, other) or "")


def test_another_model_is_said_before_anything_else() -> None:
    other = ParkIdentity("other", "other", "other", "other", "other")
    assert find_identity_fault(INDEX, other) == "it was computed by another model"


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"num_device_slots": 5, "num_host_slots": 500}, None),
        ({"layers_of_stage": (2,)}, r"stages had (1, 1) layers, now (2,)"),
        ({"num_nvme_slots": 9}, "8 slots of 4 tokens, now there are 9 of 4"),
        ({"block_tokens": 8}, "8 slots of 4 tokens, now there are 8 of 8"),
        ({"kv_dtype": "bfloat16"}, "8 slots"),
    ],
)
def test_where_its_kv_fits(changes: dict[str, Any], fault: str | None) -> None:
    found = find_geometry_fault(INDEX, msgspec.structs.replace(GEOMETRY, **changes))
    assert found == fault or (found is not None and fault is not None and fault in found)


def test_slots_that_contradict_each_other() -> None:
    twice = msgspec.structs.replace(INDEX, entries=INDEX.entries * 2)
    assert "slot 1 belongs to two requests" in (find_geometry_fault(twice, GEOMETRY) or "")


def test_outputs_alone_fit_nowhere_and_are_kept() -> None:
    (entry,) = INDEX.entries
    bare = without_kv(entry)
    assert (bare.progress.num_computed_tokens, bare.progress.nvme_slots) == (0, ())
    assert bare.progress.output_token_ids == (5, 6)
    index = ParkIndex(IDENTITY, None, (bare,))
    assert find_geometry_fault(index, GEOMETRY) == "none was kept"


def test_an_entry_belongs_to_the_request_that_it_was_made_of() -> None:
    request = make_request(0, [1, 2, 3], 5)
    entry = ParkedEntry(PROGRESS, prompt_digest(request), sampling_digest(request))
    assert entry.belongs_to(make_request(0, [1, 2, 3], 5))
    assert not entry.belongs_to(make_request(0, [1, 2, 4], 5))
    assert not entry.belongs_to(make_request(0, [1, 2, 3], 6))
    assert not entry.belongs_to(msgspec.structs.replace(request, seed=1))


def test_the_order_of_biases_does_not_matter() -> None:
    one = SamplingParams(max_tokens=1, logit_bias={1: 0.5, 20: 1.0})
    other = SamplingParams(max_tokens=1, logit_bias={20: 1.0, 1: 0.5})
    request = make_request(0, [1], 1)
    digests = {
        sampling_digest(msgspec.structs.replace(request, sampling=sampling))
        for sampling in (one, other)
    }
    assert len(digests) == 1
