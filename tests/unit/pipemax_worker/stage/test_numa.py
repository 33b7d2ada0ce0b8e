"""Processors beside a GPU, from a made-up sysfs."""

from __future__ import annotations

import ctypes
import os
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pipemax_worker.stage.numa import parse_list, stay_beside

DEVICE = torch.device("cuda", 1)
ADDRESS = "0000:3b:00.0"


def device_get(handle: Any, ordinal: int) -> int:
    handle._obj.value = 100 + ordinal
    return 0


def address_of(name: Any, size: int, handle: Any) -> int:
    """As the driver writes it."""
    if handle.value != 101:
        return 101  # CUDA_ERROR_INVALID_DEVICE
    name.value = ADDRESS.upper().encode()
    return 0


@pytest.fixture
def sysfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The second of two nodes of four processors has the card."""

    driver = SimpleNamespace(cuDeviceGet=device_get, cuDeviceGetPCIBusId=address_of)
    monkeypatch.setattr(ctypes, "CDLL", lambda _: driver)
    card = tmp_path / "bus/pci/devices" / ADDRESS
    card.mkdir(parents=True)
    (card / "numa_node").write_text("1\n")
    for node, processors in enumerate(("0-3", "4-5,8,9")):
        folder = tmp_path / f"devices/system/node/node{node}"
        folder.mkdir(parents=True)
        (folder / "cpulist").write_text(f"{processors}\n")
    return tmp_path


@pytest.fixture
def bound(monkeypatch: pytest.MonkeyPatch) -> list[set[int]]:
    """What was asked for, on a machine of ten processors of which the job may use eight."""
    asked: list[set[int]] = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(2, 10)))
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, chosen: asked.append(set(chosen)))
    return asked


def test_a_stage_stays_on_its_cards_node(sysfs: Path, bound: list[set[int]]) -> None:
    assert stay_beside(DEVICE, sysfs) == {4, 5, 8, 9}
    assert bound == [{4, 5, 8, 9}]


@pytest.mark.parametrize(
    ("node", "allowed"),
    [("-1", range(10)), ("nonsense", range(10)), ("7", range(10)), ("1", (0, 1)), ("1", (4, 8))],
    ids=["no node", "not a number", "a node that is not there", "none allowed", "all allowed"],
)
def test_nothing_to_gain(
    sysfs: Path, bound: list[set[int]], monkeypatch: pytest.MonkeyPatch, node: str, allowed: range
) -> None:
    (sysfs / "bus/pci/devices" / ADDRESS / "numa_node").write_text(node)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(allowed))
    assert stay_beside(DEVICE, sysfs) is None
    assert bound == []


def test_a_driver_that_does_not_say(sysfs: Path, bound: list[set[int]]) -> None:
    assert stay_beside(torch.device("cuda", 0), sysfs) is None
    assert bound == []


def test_a_machine_without_pci(sysfs: Path, bound: list[set[int]], tmp_path: Path) -> None:
    assert stay_beside(DEVICE, tmp_path / "empty") is None
    assert bound == []


def test_threads_started_later_stay_there_too(sysfs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the real calls, in a thread of their own: this process goes on as it was."""
    allowed = os.sched_getaffinity(0)
    one = min(allowed)
    (sysfs / "devices/system/node/node1/cpulist").write_text(f"{one}")
    seen: list[set[int]] = []

    def bind() -> None:
        stay_beside(DEVICE, sysfs)
        child = threading.Thread(target=lambda: seen.append(os.sched_getaffinity(0)))
        child.start()
        child.join()

    thread = threading.Thread(target=bind)
    thread.start()
    thread.join()
    assert seen == [{one}]
    assert os.sched_getaffinity(0) == allowed


def test_lists_of_processors() -> None:
    assert parse_list("0-2,7\n") == {0, 1, 2, 7}
    with pytest.raises(ValueError, match="invalid literal"):
        parse_list("\n")
