"""Who runs after a death: finds the lines that kill the pipeline by halving. Pure.

The suspects of a death are the lines that the dead stage may have been at. Half of them run, and
nobody beside them, until they are finished or the pipeline dies again:

- it dies: the poison is among those, and half of them run next;
- they all finish: it is among the others. These run as one, where a death may still be spent on it
  (a death that does not repeat is over after two rounds then), or else half of them.

So a death halves the suspects and a survival costs no restart: one poison among n is condemned at
the floor(log2(n)) + 1st death. Nobody is condemned but for a death while it ran alone, and a death
that may have come from outside (SIGKILL: an operator, the kernel out of memory) counts only when it
repeats. A line that is condemned gets no record before another line has finished after it: it is
*accused* until then, and a control runs next, alone. Three accused in a row are no poison: it is
the machine.

Lines are halved, not requests: the choices of a line share its prompt and its record.
"""

from __future__ import annotations

import msgspec

from pipemax_worker.contract.request import RecordKey

MAX_ACCUSED = 3
"""Lines that die alone one after the other, with none that finishes between them."""

MAX_UNEXPLAINED = 3
"""Deaths in a row that no line can have caused, with none that finishes between them."""


class Trial(msgspec.Struct, frozen=True):
    """Who may run after a death, and what is known by then.

    running          these lines and nobody else; empty: everybody runs.
    others           suspects that are held back. If all of ``running`` finish, it was one of them.
    accused          condemned since a line has finished for the last time.
    num_strikes      deaths of a line alone that may have come from outside.
    num_unexplained  deaths without suspects since a line has finished for the last time.
    """

    running: tuple[RecordKey, ...] = ()
    others: tuple[RecordKey, ...] = ()
    accused: tuple[RecordKey, ...] = ()
    num_strikes: int = 0
    num_unexplained: int = 0

    @property
    def is_open(self) -> bool:
        """Whether some are held back."""
        return bool(self.running)

    @property
    def is_hopeless(self) -> bool:
        """It is the machine, not a line: nobody is condemned any more."""
        return len(self.accused) >= MAX_ACCUSED or self.num_unexplained >= MAX_UNEXPLAINED


def after_death(
    trial: Trial,
    suspects: tuple[RecordKey, ...],
    is_from_outside: bool,
    control: RecordKey | None,
) -> Trial:
    """The pipeline has died.

    ``suspects`` are unfinished lines in order; ``is_from_outside``: the death may have nothing to
    do with them. ``control`` is a line that nothing speaks against, to run after a condemned one;
    None: there is none.
    """
    if trial.is_open:
        suspects = tuple(key for key in suspects if key in trial.running)
    if not suspects:
        return msgspec.structs.replace(trial, num_unexplained=trial.num_unexplained + 1)
    if len(trial.running) != 1:
        return _halve(trial, suspects)
    if is_from_outside and trial.num_strikes == 0:
        return msgspec.structs.replace(trial, num_strikes=1)
    return Trial(
        running=() if control is None else (control,),
        accused=(*trial.accused, *trial.running),
        num_unexplained=trial.num_unexplained,
    )


def after_finish(trial: Trial) -> Trial:
    """A line has finished: the machine works, so what is known of the accused is true."""
    return msgspec.structs.replace(trial, accused=(), num_unexplained=0)


def after_survival(trial: Trial) -> Trial:
    """All of ``running`` have finished."""
    num_suspects = len(trial.running) + len(trial.others)
    if not trial.others:
        return msgspec.structs.replace(trial, running=(), num_strikes=0)
    if 1 + _num_deaths(len(trial.others)) <= _num_deaths(num_suspects):
        return msgspec.structs.replace(trial, running=trial.others, others=(), num_strikes=0)
    return _halve(trial, trial.others)


def _halve(trial: Trial, suspects: tuple[RecordKey, ...]) -> Trial:
    """The smaller half runs, or the only one."""
    middle = max(1, len(suspects) // 2)
    return msgspec.structs.replace(
        trial, running=suspects[:middle], others=suspects[middle:], num_strikes=0
    )


def _num_deaths(num_suspects: int) -> int:
    """That halving spends on ``num_suspects`` until one of them runs alone: floor(log2(n))."""
    return num_suspects.bit_length() - 1
