"""Which request belongs to which micro-batch, and which of them lack blocks on the device."""

from __future__ import annotations

from collections.abc import Iterator

from pipemax_worker.engine.request_state import RequestState
from pipemax_worker.performance.batch_shape import BatchShape, Estimator


class MicroBatch:
    """The requests that take their turn together.

    resident    can run: all blocks on the device. In the order in which they became so.
    lacking     cannot. In the order in which they became so: about least recently run first.
    partly      those of ``lacking`` that may still hold device slots worth taking.
    """

    def __init__(self, micro_batch_id: int) -> None:
        self.micro_batch_id = micro_batch_id
        self.resident: dict[int, RequestState] = {}
        self.lacking: dict[int, RequestState] = {}
        self.partly: dict[int, RequestState] = {}
        self.num_kv_tokens = 0

    def __len__(self) -> int:
        return len(self.resident) + len(self.lacking)

    def __iter__(self) -> Iterator[RequestState]:
        yield from self.resident.values()
        yield from self.lacking.values()

    @property
    def shape(self) -> BatchShape:
        """Of a step in which all of them decode."""
        return BatchShape(len(self), self.num_kv_tokens, len(self))

    def add(self, state: RequestState) -> None:
        self.num_kv_tokens += state.num_computed_tokens
        self.refresh(state)

    def remove(self, state: RequestState) -> None:
        self.num_kv_tokens -= state.num_computed_tokens
        for members in (self.resident, self.lacking, self.partly):
            members.pop(state.request_id, None)

    def refresh(self, state: RequestState) -> None:
        """Bring the lists in step after blocks of ``state`` moved."""
        request_id = state.request_id
        if state.is_resident:
            self.lacking.pop(request_id, None)
            self.partly.pop(request_id, None)
            self.resident[request_id] = state
        else:
            self.resident.pop(request_id, None)
            self.lacking[request_id] = state
            if state.on_device:
                self.partly[request_id] = state
            else:
                self.partly.pop(request_id, None)


class MicroBatches:
    """All micro-batches of the pipeline, taken in cyclic order."""

    def __init__(self, num_micro_batches: int, estimator: Estimator) -> None:
        self._estimator = estimator
        self._all = [MicroBatch(index) for index in range(num_micro_batches)]
        self._seconds: list[float | None] = [None] * num_micro_batches
        self._shapes: list[BatchShape | None] = [None] * num_micro_batches
        self._sizes: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[MicroBatch]:
        return iter(self._all)

    def __getitem__(self, micro_batch_id: int) -> MicroBatch:
        return self._all[micro_batch_id]

    def of(self, state: RequestState) -> MicroBatch | None:
        return None if state.micro_batch_id is None else self._all[state.micro_batch_id]

    @property
    def sizes(self) -> tuple[int, ...]:
        if self._sizes is None:
            self._sizes = tuple(map(len, self._all))
        return self._sizes

    @property
    def num_lacking(self) -> int:
        return sum(len(micro_batch.lacking) for micro_batch in self._all)

    def seconds(self) -> tuple[float, ...]:
        """Predicted step of each, all requests decoding. Kept until the micro-batch changes or the
        predictions are forgotten."""
        for index, known in enumerate(self._seconds):
            if known is None:
                shape = self._shapes[index]
                if shape is None:
                    shape = self._shapes[index] = self._all[index].shape
                self._seconds[index] = self._estimator.predict(shape)
        return tuple(known for known in self._seconds if known is not None)

    def forget_predictions(self) -> None:
        """The estimator may have learned: predictions of one turn are compared with each other."""
        self._seconds = [None] * len(self._all)

    def add(self, state: RequestState, micro_batch_id: int) -> None:
        state.micro_batch_id = micro_batch_id
        self._all[micro_batch_id].add(state)
        self._sizes = None
        self._forget_shape(micro_batch_id)

    def remove(self, state: RequestState) -> int:
        """The micro-batch it leaves; 0 if it was in none."""
        micro_batch = self.of(state)
        if micro_batch is None:
            return 0
        micro_batch.remove(state)
        self._sizes = None
        self._forget_shape(micro_batch.micro_batch_id)
        state.micro_batch_id = None
        return micro_batch.micro_batch_id

    def note_computed(self, micro_batch_id: int | None, num_new_tokens: int) -> None:
        """``num_computed_tokens`` of members have changed by ``num_new_tokens`` in all."""
        if micro_batch_id is not None:
            self._all[micro_batch_id].num_kv_tokens += num_new_tokens
            self._forget_shape(micro_batch_id)

    def _forget_shape(self, micro_batch_id: int) -> None:
        self._shapes[micro_batch_id] = self._seconds[micro_batch_id] = None

    def lightest(self) -> int:
        """The micro-batch with the shortest predicted step; the smaller one of equals."""
        seconds, sizes = self.seconds(), self.sizes
        return min(range(len(seconds)), key=lambda index: (seconds[index], sizes[index], index))

    def next_with_requests(self, micro_batch_id: int) -> MicroBatch | None:
        """The next in turn that is not empty; the same one if it is alone."""
        for offset in range(1, len(self._all) + 1):
            candidate = self._all[(micro_batch_id + offset) % len(self._all)]
            if len(candidate):
                return candidate
        return None

    def rebalance(self, micro_batch_id: int) -> None:
        """Move one idle request from here to the lightest micro-batch if that evens out the steps.

        For the tail of a job, when nothing is left to admit. Below the knee all steps are predicted
        alike; there the numbers of requests are evened out.
        """
        heavy = self._all[micro_batch_id]
        if len(heavy) <= min(self.sizes) + 1:
            return
        lightest = self._all[self.lightest()]
        if len(heavy) <= len(lightest) + 1:
            return
        movable = [state for state in heavy if state.num_in_flight == 0]
        if movable:
            state = min(movable, key=lambda member: member.num_computed_tokens)
            self.transfer(state, lightest.micro_batch_id)

    def transfer(self, state: RequestState, micro_batch_id: int) -> None:
        """``state``, of which no row is in flight, takes its turns with another micro-batch."""
        self.remove(state)
        self.add(state, micro_batch_id)
