"""The S3 store against a real server, through a proxy that makes its requests fail."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import msgspec
import pytest
from kit.records import make_record
from kit.s3_proxy import Fault, FaultyProxy
from kit.s3_server import S3Server, environment_for
from kit.store import ManualClock
from pipemax_worker.dataset.backoff import RetryPolicy
from pipemax_worker.dataset.object_store import ObjectChangedError, ObjectNotFoundError
from pipemax_worker.dataset.records import Attempt, read_records
from pipemax_worker.dataset.s3_settings import S3Location, parse_s3, read_settings
from pipemax_worker.dataset.s3_store import S3Store, open_s3
from pipemax_worker.dataset.segments import SegmentWriter, segment_key
from pipemax_worker.errors import OutputError

_FAST = RetryPolicy(max_seconds=60.0, first_delay_seconds=0.001, max_delay_seconds=0.01)
_TEMPORARY = [Fault.UNAVAILABLE, Fault.CUT, Fault.LOSE_ANSWER, Fault.FAIL_AFTER]


@pytest.fixture
def store(s3_server: S3Server) -> S3Store:
    return open_s3(f"{s3_server.new_bucket()}/out/job", s3_server.environment, _FAST)


@pytest.fixture
def proxy(s3_server: S3Server) -> Iterator[FaultyProxy]:
    with FaultyProxy(s3_server.endpoint) as proxy:
        yield proxy


@pytest.fixture
def shaky(s3_server: S3Server, proxy: FaultyProxy) -> S3Store:
    """A store behind the proxy."""
    return open_s3(f"{s3_server.new_bucket()}/out", environment_for(proxy.endpoint), _FAST)


def _beside(store: S3Store, s3_server: S3Server) -> S3Store:
    """The same place as another worker sees it, without faults."""
    return open_s3(store.place, s3_server.environment, _FAST)


def test_exactly_one_of_many_concurrent_creators_wins(s3_server: S3Server) -> None:
    bucket = s3_server.new_bucket()
    stores = [open_s3(bucket, s3_server.environment) for _ in range(16)]
    with ThreadPoolExecutor(16) as workers:
        for number in range(25):
            created = list(
                workers.map(
                    lambda one, number=number: stores[one].put_if_absent(f"k{number}", b"%d" % one),
                    range(16),
                )
            )
            assert sum(created) == 1
            assert stores[0].get(f"k{number}") == b"%d" % created.index(True)


def test_exactly_one_wins_though_answers_are_lost(s3_server: S3Server, proxy: FaultyProxy) -> None:
    """The same bytes from all, so that only a writer's own word tells its object from another's."""
    bucket = s3_server.new_bucket()
    stores = [open_s3(bucket, environment_for(proxy.endpoint), _FAST) for _ in range(16)]
    choose = random.Random(0)
    with ThreadPoolExecutor(16) as workers:
        for number in range(12):
            proxy.faults.extend(choose.choices([None, *_TEMPORARY, Fault.CONFLICT], k=40))
            created = workers.map(
                lambda store, number=number: store.put_if_absent(f"k{number}", b"same"), stores
            )
            assert sum(created) == 1


@pytest.mark.parametrize("fault", [*_TEMPORARY, Fault.CONFLICT])
def test_a_store_that_fails_for_a_while_is_tried_again(
    shaky: S3Store, proxy: FaultyProxy, fault: Fault
) -> None:
    def after_faults(verb: Callable[[], object]) -> object:
        proxy.faults.extend([fault] * 3)
        found = verb()
        assert not proxy.faults
        return found

    assert after_faults(lambda: shaky.put_if_absent("a/1", b"one")) is True
    assert after_faults(lambda: shaky.put_if_absent("a/1", b"two")) is False
    assert after_faults(lambda: shaky.put("a/2", b"two")) is None
    assert after_faults(lambda: shaky.get("a/1")) == b"one"
    assert after_faults(lambda: shaky.get_range("a/1", 1, 9)) == b"ne"
    assert after_faults(lambda: shaky.exists("a/1")) is True
    assert after_faults(lambda: shaky.list("a/")) == ["a/1", "a/2"]
    assert after_faults(lambda: shaky.delete("a/1")) is None
    assert shaky.list("") == ["a/2"]


def test_an_answer_that_breaks_off_is_read_again(shaky: S3Store, proxy: FaultyProxy) -> None:
    shaky.put("a", b"x" * 100_000)
    proxy.faults.extend([Fault.CUT_BODY] * 2)
    assert shaky.get("a") == b"x" * 100_000
    proxy.faults.extend([Fault.CUT_BODY] * 2)
    assert shaky.get_range("a", 1000, 90_000) == b"x" * 89_000


@pytest.mark.parametrize("fault", [Fault.LOSE_ANSWER, Fault.FAIL_AFTER])
def test_a_lost_answer_is_settled_by_whose_word_the_key_carries(
    shaky: S3Store, s3_server: S3Server, proxy: FaultyProxy, fault: Fault
) -> None:
    proxy.faults.append(fault)
    assert shaky.put_if_absent("ours", b"same") is True
    assert _beside(shaky, s3_server).put_if_absent("theirs", b"same") is True
    proxy.faults.append(fault)
    assert shaky.put_if_absent("theirs", b"same") is False


def test_what_happens_between_a_lost_answer_and_the_next_try(
    s3_server: S3Server, proxy: FaultyProxy
) -> None:
    """Another writer comes first, or somebody removes what we wrote unawares."""
    location = parse_s3(f"{s3_server.new_bucket()}/out")
    assert location is not None
    meanwhile: list[Callable[[], object]] = []
    store = S3Store(
        location,
        read_settings(environment_for(proxy.endpoint)),
        _FAST,
        sleep=lambda _: meanwhile.pop()() and None,
    )
    other = _beside(store, s3_server)
    proxy.faults.append(Fault.CUT)
    meanwhile.append(lambda: other.put_if_absent("theirs", b"same"))
    assert store.put_if_absent("theirs", b"same") is False
    proxy.faults.append(Fault.LOSE_ANSWER)
    meanwhile.append(lambda: other.delete("removed"))
    assert store.put_if_absent("removed", b"ours") is True
    assert other.get("removed") == b"ours"


def test_a_store_that_fails_for_good_is_named_after_a_bounded_time(
    s3_server: S3Server, proxy: FaultyProxy
) -> None:
    location = parse_s3(f"{s3_server.new_bucket()}/out")
    assert location is not None
    clock, slept = ManualClock(), list[float]()

    def sleep(seconds: float) -> None:
        clock.seconds += seconds
        slept.append(seconds)

    settings = read_settings(environment_for(proxy.endpoint))
    store = S3Store(location, settings, RetryPolicy(max_seconds=60.0), clock, sleep)
    for fault, said in ((Fault.UNAVAILABLE, "Injected"), (Fault.CUT, "HTTP error")):
        proxy.constant_fault = fault
        for verb in (lambda: store.put_if_absent("results/1", b""), lambda: store.list("ledger/")):
            slept.clear()
            with pytest.raises(OutputError) as caught:
                verb()
            assert sum(slept) == pytest.approx(60.0)
            assert max(slept) <= 10.0
            message = str(caught.value)
            assert f"{location}/" in message
            assert proxy.endpoint in message
            assert said in message
            assert f"tried {len(slept) + 1} times in 60 s" in message
            assert "run again: finished requests are kept" in message


def test_nobody_listens() -> None:
    environment = environment_for("http://127.0.0.1:9")
    store = open_s3("s3://bucket/out", environment, RetryPolicy(max_seconds=0.05))
    with pytest.raises(OutputError, match=r"s3://bucket/out/a at http://127.0.0.1:9: tried"):
        store.get("a")


def test_a_server_that_is_silent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
        settings = msgspec.structs.replace(
            read_settings(environment_for(endpoint)), read_timeout=timedelta(seconds=0.1)
        )
        clock = ManualClock()

        def sleep(_: float) -> None:
            clock.seconds += 60.0  # the time is used up, whatever a try takes on this machine

        policy = RetryPolicy(max_seconds=1.0)
        store = S3Store(S3Location("bucket", "out"), settings, policy, clock, sleep)
        for verb in (lambda: store.get("a"), lambda: store.put_if_absent("a", b"data")):
            with pytest.raises(OutputError, match=r"s3://bucket/out/a at .*: tried 2 times"):
                verb()


def test_what_no_second_try_can_mend_is_said_at_once(shaky: S3Store, proxy: FaultyProxy) -> None:
    proxy.constant_fault = Fault.DENIED
    for verb in (lambda: shaky.put_if_absent("a", b""), lambda: shaky.get("a")):
        proxy.requests.clear()
        with pytest.raises(OutputError, match=r"access is denied .*AWS_ACCESS_KEY_ID"):
            verb()
        assert len(proxy.requests) == 1


def test_a_bucket_that_is_not_there(s3_server: S3Server) -> None:
    store = open_s3("s3://no-such-bucket/out", s3_server.environment, _FAST)
    for verb in (lambda: store.put_if_absent("a", b""), lambda: store.list(""), store.probe):
        with pytest.raises(OutputError, match=r"no such bucket .* create the bucket"):
            verb()


def test_a_segment_whose_answer_was_lost_for_good_is_neither_lost_nor_doubled(
    shaky: S3Store, s3_server: S3Server, proxy: FaultyProxy
) -> None:
    """The write has landed, its writer does not know: he keeps his records and tries again."""
    impatient = open_s3(shaky.place, environment_for(proxy.endpoint), RetryPolicy(max_seconds=0.0))
    writer = SegmentWriter.open(impatient, 0, Attempt(1, "w"), ManualClock())
    writer.append(make_record(0))
    proxy.faults.append(Fault.LOSE_ANSWER)
    with pytest.raises(OutputError):
        writer.flush()
    assert writer.num_buffered == 1
    writer.append(make_record(9))
    assert writer.flush()
    assert writer.summary(2).counts.num_records == 2
    store = _beside(shaky, s3_server)
    offsets = [
        [head.pipemax.offset for head, _ in read_records(key, store.get(key))]
        for key in (segment_key(0, 0), segment_key(0, 1))
    ]
    assert offsets == [[0], [9]]


def test_a_range_names_the_version_it_means(
    shaky: S3Store, s3_server: S3Server, proxy: FaultyProxy
) -> None:
    shaky.put("a", b"first version")
    etag = shaky.etag("a")
    assert shaky.get_range("a", 0, 5, etag) == b"first"
    assert shaky.size("a") == 13
    _beside(shaky, s3_server).put("a", b"second")
    for fault in (None, Fault.IGNORE_CONDITIONS):
        proxy.faults.append(fault)
        with pytest.raises(ObjectChangedError, match=f"{shaky.place}/a"):
            shaky.get_range("a", 0, 5, etag)
    shaky.delete("a")
    with pytest.raises(ObjectNotFoundError):
        shaky.get_range("a", 0, 5, etag)


@pytest.mark.parametrize("key", ["a b", "é/ü.jsonl", "50%20", "x#y", "q[1]*?", "~+&=;", "a:b"])
def test_keys_of_any_letters_come_back_as_they_were(store: S3Store, key: str) -> None:
    assert store.put_if_absent(key, b"1")
    assert store.list("") == [key]
    assert store.get(key) == b"1"


def test_the_prefix_is_a_wall(s3_server: S3Server, store: S3Store) -> None:
    bucket = store.place.removesuffix("/out/job")
    root = open_s3(bucket, s3_server.environment)
    store.put("a", b"1")
    root.put("out/job-2/a", b"2")
    root.put("b", b"3")
    assert store.list("") == ["a"]
    assert root.list("out/job") == ["out/job-2/a", "out/job/a"]
    for key in ("../job-2/a", "/a"):
        with pytest.raises(OutputError, match="no key"):
            store.get(key)


def test_a_listing_longer_than_a_page_is_whole_and_sorted(store: S3Store) -> None:
    keys = [f"ledger/done/{number:08d}.json" for number in range(1001)]
    with ThreadPoolExecutor(8) as workers:
        list(workers.map(lambda key: store.put(key, b""), random.Random(0).sample(keys, len(keys))))
    assert store.list("ledger/done/") == keys
    for prefix in ("ledger/done/0000099", "ledger/done/000000", "ledger/done/1", "ledger/d"):
        assert store.list(prefix) == [key for key in keys if key.startswith(prefix)]


def test_no_place_in_a_bucket() -> None:
    for uri in ("/a/path", "s3://", "gs://bucket/a"):
        with pytest.raises(OutputError, match="expected s3://bucket/prefix"):
            open_s3(uri, {})
