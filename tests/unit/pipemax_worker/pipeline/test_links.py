"""Addresses of a pipeline's sockets."""

import shutil
from pathlib import Path

import msgspec
import pytest
from kit.pipeline_driver import make_configs, make_settings
from pipemax_worker.errors import InvariantError
from pipemax_worker.pipeline.links import MAX_IPC_PATH_BYTES, assign_addresses, make_socket_folder

FOLDER = Path("/sockets")


def test_a_chain_with_a_way_back() -> None:
    first, middle, last = assign_addresses(make_configs(make_settings(3)), FOLDER)
    assert first.hidden_in_address is None
    assert first.hidden_out_address == middle.hidden_in_address == "ipc:///sockets/hidden-1"
    assert middle.hidden_out_address == last.hidden_in_address
    assert last.hidden_out_address is None
    assert first.feedback_address == last.feedback_address == "ipc:///sockets/feedback"
    assert middle.feedback_address is None
    assert len({config.input_address for config in (first, middle, last)}) == 3
    assert len({config.event_address for config in (first, middle, last)}) == 1


def test_one_stage_has_no_neighbours() -> None:
    (only,) = assign_addresses(make_configs(make_settings(1)), FOLDER)
    assert only.hidden_in_address is only.hidden_out_address is only.feedback_address is None


def test_gpus_meet_at_a_file() -> None:
    configs = make_configs(make_settings(2))
    assert {config.rendezvous for config in assign_addresses(configs, FOLDER)} == {None}
    on_gpus = [msgspec.structs.replace(c, device=f"cuda:{c.stage}") for c in configs]
    rendezvous = {config.rendezvous for config in assign_addresses(on_gpus, FOLDER)}
    assert rendezvous == {"file:///sockets/rendezvous"}
    through_host = [msgspec.structs.replace(config, uses_nccl=False) for config in on_gpus]
    assert {config.rendezvous for config in assign_addresses(through_host, FOLDER)} == {None}


def test_a_part_of_a_pipeline_is_refused() -> None:
    with pytest.raises(InvariantError, match="stages 0, 1"):
        assign_addresses(make_configs(make_settings(3))[1:], FOLDER)


def test_socket_paths_fit_a_socket_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    folder = make_socket_folder()
    try:
        assert len(bytes(folder / "feedback")) <= MAX_IPC_PATH_BYTES
        assert folder.stat().st_mode & 0o077 == 0
    finally:
        shutil.rmtree(folder)
    assert list(deep.iterdir()) == []
