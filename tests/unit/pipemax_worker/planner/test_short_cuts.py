"""Short cuts of the hot paths change no message: each is run against the long way."""

from collections.abc import Sequence

import msgspec
import pytest
from kit.simulations import make_settings
from pipemax_worker.contract.messages import StageInput
from pipemax_worker.engine.message import MessageDraft
from pipemax_worker.engine.policies import POLICIES
from pipemax_worker.engine.request_state import RequestState
from pipemax_worker.engine.rows import RowBuilder
from pipemax_worker.performance.correction import CorrectedEstimator
from pipemax_worker.planner.simulation import Simulation, SimulationResult
from pipemax_worker.planner.workload import Workload

LENGTHS = tuple((3 + 5 * (n % 7), 4 + 3 * (n % 11)) for n in range(50))


def run(policy: str, hidden: int | None = None) -> tuple[bytes, SimulationResult]:
    """All messages of a run in tight tiers, as they would travel, and its result."""
    host = 0 if policy in ("tdpipe", "vllm") else 150
    settings = make_settings(policy=policy, device=60, host=host, prefix_sharing=True)
    simulation = Simulation(settings, Workload(LENGTHS, hidden))
    messages: list[bytes] = []
    submit = simulation.pipeline.submit

    def record(stage_input: StageInput) -> None:
        messages.append(msgspec.msgpack.encode(stage_input))
        submit(stage_input)

    simulation.pipeline.submit = record  # type: ignore[method-assign]
    return b"".join(messages), simulation.run()


def build_the_long_way(
    builder: RowBuilder,
    draft: MessageDraft,
    rows: Sequence[tuple[RequestState, int]],
    turn: int,
) -> int:
    for state, num_tokens in rows:
        builder._add(draft, state, num_tokens, turn)
    return sum(num_tokens for _, num_tokens in rows)


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_decode_rows_are_what_any_row_is(policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    short = run(policy, hidden=60)
    monkeypatch.setattr(RowBuilder, "_decode", build_the_long_way)
    assert run(policy, hidden=60) == short


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_an_exact_prior_is_what_learning_would_find(
    policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = run(policy)
    construct = CorrectedEstimator.__init__

    def construct_learned(self: CorrectedEstimator, prior: object) -> None:
        construct(self, prior)  # type: ignore[arg-type]
        self._is_prior_exact = False

    monkeypatch.setattr(CorrectedEstimator, "__init__", construct_learned)
    assert run(policy) == short
