"""What each stage has reported last: who hangs, and which messages a dead stage was at."""

from __future__ import annotations

from pipemax_worker.contract.messages import StageDied, StageReport

_MAX_COUNTED_TIMEOUTS = 2
"""Of one wait: a driver that was frozen with its stages (Ctrl-Z) must not blame them for it."""

_MAX_LOST_REPORTS = 1
"""The last report of a process that is killed may not have left it."""


class Liveness:
    """Follows the stages of one pipeline; ``step_timeout_seconds`` None: never says that one hangs.

    Silence is counted only while the driver waits, so its own pauses do not count.
    """

    def __init__(self, num_stages: int, step_timeout_seconds: float | None = None) -> None:
        self._last_sequences = [-1] * num_stages
        self._step_timeout_seconds = step_timeout_seconds
        self._silent_seconds = 0.0

    def note_report(self, report: StageReport) -> None:
        if report.sequence > self._last_sequences[report.stage]:
            self._last_sequences[report.stage] = report.sequence

    def note_all_reported(self, sequence: int) -> None:
        """Every stage has reported this message."""
        self._last_sequences = [max(sequence, last) for last in self._last_sequences]

    def note_events(self) -> None:
        """Somebody has said something, or nobody is expected to."""
        self._silent_seconds = 0.0

    def note_silence(self, waited_seconds: float, timeout_seconds: float) -> None:
        """Nobody has answered a wait of about ``timeout_seconds``."""
        self._silent_seconds += min(waited_seconds, _MAX_COUNTED_TIMEOUTS * timeout_seconds)

    def find_hang(self) -> StageDied | None:
        """The death of the stage that is furthest behind, once the silence is too long."""
        limit = self._step_timeout_seconds
        if limit is None or self._silent_seconds < limit:
            return None
        last_sequence = min(self._last_sequences)
        stage = self._last_sequences.index(last_sequence)
        return StageDied(
            stage,
            exit_code=0,
            last_sequence=last_sequence,
            message=f"stage {stage} hangs: {self._silent_seconds:.0f} s without an answer to "
            f"message {last_sequence + 1}; engine.stepTimeout allows {limit:g} s",
        )


def suspect_messages(deaths: tuple[StageDied, ...]) -> range:
    """Sequences of the messages that the dead stages may have been at when they died.

    A stage reports a message before it begins the next. One that hangs (exit code 0) or was given
    time to speak was at the message after its last report; one that was killed, or killed itself,
    may have lost its last words, so the one after that is doubted as well. With several dead stages
    one may have died of another's death: all are doubted.
    """
    first = min(death.last_sequence for death in deaths) + 1
    last = max(
        death.last_sequence + (_MAX_LOST_REPORTS if death.exit_code else 0) for death in deaths
    )
    return range(first, last + 2)
