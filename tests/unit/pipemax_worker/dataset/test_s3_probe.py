"""A server without real conditional writes is found out before a job trusts it."""

from __future__ import annotations

import threading

import pytest
from kit.s3_proxy import Fault, FaultyProxy
from kit.s3_server import S3Server, environment_for
from kit.store import MemoryStore, OverwritingStore
from pipemax_worker.dataset.backoff import RetryPolicy
from pipemax_worker.dataset.s3_probe import prove_conditional_writes
from pipemax_worker.dataset.s3_store import open_s3
from pipemax_worker.errors import OutputError

_FAST = RetryPolicy(max_seconds=60.0, first_delay_seconds=0.001, max_delay_seconds=0.01)


class LookingFirstStore(MemoryStore):
    """Looks whether a contended key is there, and writes when all others have looked too."""

    def __init__(self) -> None:
        super().__init__()
        self._all_have_looked = threading.Barrier(8)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        is_free = key not in self.objects
        if key.endswith("-contended"):
            self._all_have_looked.wait()
        if is_free:
            self.put(key, data)
        return is_free


class StaleListStore(MemoryStore):
    """Lists what was there before the last write."""

    def list(self, prefix: str) -> list[str]:
        return super().list(prefix)[1:]


def test_a_server_with_conditional_writes_is_left_as_it_was(s3_server: S3Server) -> None:
    store = open_s3(f"{s3_server.new_bucket()}/out", s3_server.environment)
    store.put("mine", b"")
    store.probe()
    assert store.list("") == ["mine"]


def test_a_server_that_ignores_the_condition(s3_server: S3Server) -> None:
    with FaultyProxy(s3_server.endpoint) as proxy:
        proxy.constant_fault = Fault.IGNORE_CONDITIONS
        store = open_s3(f"{s3_server.new_bucket()}/out", environment_for(proxy.endpoint))
        with pytest.raises(OutputError) as caught:
            store.probe()
    message = str(caught.value)
    assert f"{store.place}: {proxy.endpoint} has no conditional writes" in message
    assert "PUT with If-None-Match: *" in message
    assert "a second conditional write replaced the first" in message


def test_a_server_that_loses_answers_passes(s3_server: S3Server) -> None:
    """It fails, but it does not lie."""
    with FaultyProxy(s3_server.endpoint) as proxy:
        store = open_s3(f"{s3_server.new_bucket()}/out", environment_for(proxy.endpoint), _FAST)
        proxy.faults.extend([Fault.LOSE_ANSWER, None, Fault.FAIL_AFTER, Fault.UNAVAILABLE] * 5)
        store.probe()
        assert not proxy.faults


def test_servers_that_look_first_or_list_late() -> None:
    with pytest.raises(OutputError, match="8 of 8 concurrent conditional writes won"):
        prove_conditional_writes(LookingFirstStore(), "racy")
    with pytest.raises(OutputError, match="replaced the first"):
        prove_conditional_writes(OverwritingStore(), "careless")
    with pytest.raises(OutputError, match="strongly consistent"):
        prove_conditional_writes(StaleListStore(), "late")
    prove_conditional_writes(MemoryStore(), "good")
