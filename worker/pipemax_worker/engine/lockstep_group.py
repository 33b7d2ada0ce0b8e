"""One micro-batch in lock-step: which of its rows take a token a turn, and since when.

What a row does every turn is written nowhere: its positions are a base plus the turns that its
micro-batch has taken, and what changes (a block to allocate, the last turn, the end of a text) lies
in a bucket of the turn that it falls on. So a turn costs what changes in it, not what it holds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from pipemax_worker.contract.geometry import num_blocks_for
from pipemax_worker.contract.messages import StageInput
from pipemax_worker.engine.hidden_length import LengthReached
from pipemax_worker.engine.micro_batches import MicroBatch
from pipemax_worker.engine.request_state import RequestState, RequestStatus
from pipemax_worker.engine.residency import Residency
from pipemax_worker.kvcache.block_manager import BlockManager
from pipemax_worker.performance.batch_shape import BatchShape

_RUNNING = RequestStatus.RUNNING
RowKey = tuple[int, int, int]


class Turn:
    """A message in flight.

    number              of its micro-batch's turns.
    previous_sequence   of the turn before: by it rows are ordered in a message.
    num_steady          outputs of rows that are still in lock-step.
    rows                the others, (place in the message, request, whether it samples).
    keys                places of rows that began with this turn, by request.
    stage_input         its message, if the scheduler has taken the turn.
    is_fed_back         whether a row waits for a token that is on its way.
    """

    __slots__ = (
        "is_fed_back",
        "keys",
        "micro_batch_id",
        "num_prefill_tokens",
        "num_steady",
        "number",
        "previous_sequence",
        "rows",
        "sequence",
        "shape",
        "stage_input",
    )

    def __init__(self, sequence: int, group: Group, shape: BatchShape, num_prefill_tokens: int):
        self.sequence = sequence
        self.micro_batch_id = group.micro_batch.micro_batch_id
        self.number = group.num_turns
        self.previous_sequence = group.last_sequence
        self.shape = shape
        self.num_prefill_tokens = num_prefill_tokens
        self.num_steady = 0
        self.rows: list[tuple[RowKey, RequestState, bool]] = []
        self.keys: dict[int, RowKey] = {}
        self.stage_input: StageInput | None = None
        self.is_fed_back = False

    def place(self, request_id: int) -> RowKey:
        return self.keys.get(request_id) or (0, self.previous_sequence, request_id)


class Row:
    """A request in lock-step.

    first_turn    from which on it takes one token each turn.
    base_tokens   its positions are that many more than its micro-batch has taken turns.

    Blocks that it needs after it has joined are counted and not allocated (``OwedBlocks``).
    """

    __slots__ = ("base_tokens", "first_turn", "state")

    def __init__(self, state: RequestState, first_turn: int) -> None:
        self.state = state
        self.first_turn = first_turn
        self.base_tokens = state.num_computed_tokens - first_turn - 1


class Group:
    """See the module.

    rows             in lock-step, by request.
    others           the micro-batch's other members: prompts, and whoever skipped a turn or waits
                     for the end of its text. Their states are as they are without lock-step.
    in_flight        turns whose outputs have not come back, the oldest first.
    num_turns        taken so far.
    num_kv_tokens    positions of all ``rows``.
    last_sequence    of the last turn; ``last_join``: the last turn with which a row began.
    """

    def __init__(
        self, micro_batch: MicroBatch, residency: Residency, block_tokens: int, token_id: int
    ) -> None:
        self.micro_batch = micro_batch
        self._residency = residency
        self.rows: dict[int, Row] = {}
        self.others = {state.request_id: state for state in micro_batch}
        self.in_flight: deque[Turn] = deque()
        self.num_turns = 0
        self.num_kv_tokens = 0
        self.last_sequence = self.last_join = -1
        self._block_tokens = block_tokens
        self._token_id = token_id
        self._borders: list[dict[int, Row]] = [{} for _ in range(block_tokens)]
        self._last_turns: dict[int, list[Row]] = {}
        self._ends: dict[int, list[Row]] = {}

    def needing_blocks(self) -> dict[int, Row]:
        """Rows that need a block for the next turn."""
        return self._borders[self.num_turns % self._block_tokens]

    def count_turn(self, turn: Turn) -> None:
        """All rows have taken ``turn``; who may not take another one leaves."""
        self.in_flight.append(turn)
        self.last_sequence = turn.sequence
        self.num_kv_tokens += len(self.rows)
        self.num_turns += 1

    def leave_after(self, number: int) -> None:
        """Rows whose limit allows no turn after ``number`` leave."""
        if number in self._last_turns:
            self._leave_all(self._last_turns.pop(number))

    def leave_at_end(self, number: int) -> None:
        """Rows whose text ends with the output of turn ``number`` leave, before it is taken."""
        if number in self._ends:
            self._leave_all(self._ends.pop(number))

    def _leave_all(self, rows: Sequence[Row]) -> None:
        for row in rows:
            if self.rows.get(row.state.request_id) is row:
                self.leave(row)

    # --- into lock-step

    def place(self, turn: Turn, state: RequestState, key: RowKey, needs_sample: bool) -> None:
        """``state`` has a row of its own in ``turn``, the last one, and counts it already. It joins
        if nothing but decoding lies before it."""
        if needs_sample and self.join(turn, state):
            turn.keys[state.request_id] = key
        else:
            turn.rows.append((key, state, needs_sample))

    def join(self, turn: Turn, state: RequestState) -> bool:
        """``state`` samples in ``turn``, the last one, and counts it already. It is in lock-step
        from there on; False, and nothing done, if it has to be looked at every turn."""
        num_left = self._num_outputs_left(state)
        if num_left is None:
            return False
        num_text, num_limit = num_left
        row = Row(state, turn.number)
        state.num_in_flight -= 1
        state.num_unknown_tokens -= 1
        turn.num_steady += 1
        self.rows[state.request_id] = row
        self.others.pop(state.request_id, None)
        self.num_kv_tokens += state.num_computed_tokens
        self.last_join = turn.number
        self._borders[-row.base_tokens % self._block_tokens][state.request_id] = row
        self._last_turns.setdefault(turn.number + num_limit, []).append(row)
        if num_text < num_limit:
            self._ends.setdefault(turn.number + num_text, []).append(row)
        return True

    def _num_outputs_left(self, state: RequestState) -> tuple[int, int] | None:
        """(until its text ends, until its limit) after those that are on their way; None if it must
        not be in lock-step."""
        num_computed = state.num_computed_tokens
        checker = state.stop_checker
        if (
            state.status is not _RUNNING
            or state.preemption is not None
            or state.request.sampling.stop_token_ids
            or num_computed + 1 != len(state.token_ids) + state.num_unknown_tokens
            or num_computed < max(state.num_prompt_tokens, state.num_ever_computed)
            or len(state.block_ids) != num_blocks_for(num_computed, self._block_tokens)
        ):
            return None
        num_limit = state.max_known_tokens - len(state.token_ids)
        num_text = num_limit
        if checker is not None:
            if not isinstance(checker, LengthReached):
                return None
            num_text = min(num_limit, checker.num_left)
        num_unknown = state.num_unknown_tokens
        if num_text < num_unknown:
            return None  # it ends with an output that is on its way
        return num_text - num_unknown, num_limit - num_unknown

    # --- out of it

    def leave(self, row: Row) -> int:
        """Its state is as without lock-step from now on, but for what its blocks are filled with.
        Returns the positions that it had when it joined."""
        state = row.state
        request_id, num_joined = state.request_id, state.num_computed_tokens
        num_taken = self.num_turns - row.first_turn
        num_in_flight = min(len(self.in_flight), num_taken)
        self._note_outputs(state, num_taken - num_in_flight)
        state.num_in_flight += num_in_flight
        state.num_unknown_tokens += num_in_flight
        num_computed = row.base_tokens + self.num_turns
        state.num_computed_tokens = state.num_ever_computed = num_computed
        state.num_stored_blocks = num_computed // self._block_tokens
        self._owe(state, num_computed)
        state.last_turn = self.last_sequence
        del self.rows[request_id]
        del self._borders[-row.base_tokens % self._block_tokens][request_id]
        self.others[request_id] = state
        self.num_kv_tokens -= num_computed
        for turn in self.in_flight:
            if turn.number >= row.first_turn:
                turn.num_steady -= 1
                turn.rows.append((turn.place(request_id), state, True))
        return num_joined

    def _owe(self, state: RequestState, num_computed: int) -> None:
        num_owed = num_blocks_for(num_computed, self._block_tokens) - len(state.block_ids)
        if num_owed:
            self._residency.owed.by_request[state.request_id] = num_owed

    def owe_all(self) -> None:
        """As if all rows had left, as far as blocks go."""
        for row in self.rows.values():
            self._owe(row.state, row.base_tokens + self.num_turns)

    def _note_outputs(self, state: RequestState, num_outputs: int) -> None:
        state.token_ids += (self._token_id,) * num_outputs
        if isinstance(state.stop_checker, LengthReached):
            state.stop_checker.skip(num_outputs)

    def dissolve(self, manager: BlockManager) -> None:
        """All rows leave."""
        for row in list(self.rows.values()):
            self.release(row, manager)

    def release(self, row: Row, manager: BlockManager) -> None:
        """It leaves and goes on: with its blocks, and with what they hold."""
        num_joined = self.leave(row)
        self._residency.allocate_owed(row.state)
        self._mark_filled(row.state, num_joined, manager)

    def _mark_filled(self, state: RequestState, num_tokens: int, manager: BlockManager) -> None:
        """What was computed after the first ``num_tokens``."""
        block_tokens, block_ids = self._block_tokens, state.block_ids
        for index in range(num_tokens // block_tokens, len(block_ids)):
            num_filled = state.num_computed_tokens - index * block_tokens
            manager.mark_filled(block_ids[index], min(block_tokens, num_filled))

    def forget_strangers(self) -> None:
        """Bring ``others`` in step after members came or went."""
        own_id = self.micro_batch.micro_batch_id
        for state in [s for s in self.others.values() if s.micro_batch_id != own_id]:
            del self.others[state.request_id]
        if len(self.rows) + len(self.others) != len(self.micro_batch):
            self.others = {
                s.request_id: s for s in self.micro_batch if s.request_id not in self.rows
            }
