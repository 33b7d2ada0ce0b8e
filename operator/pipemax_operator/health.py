"""Whether the operator is ready, and whether it lives: from what it has done, in one value. Pure.

Not ready costs nothing but the word: the Deployment does not count it. Not alive is what a restart
mends. So an API server that is away makes it unready and never dead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

# A queue that has not turned for this long hangs; it turns every few seconds, busy or not.
MAX_SILENCE_SECONDS = 60.0
# kopf opens a watch again within its inactivity timeout, and lists again at worst.
MAX_BEHIND_SECONDS = 180.0


@dataclass(frozen=True)
class Vitals:
    """As observed just now.

    queue_idle_seconds    since the queue last turned; 0 where it need not.
    behind_seconds        kind -> for how long its watch has owed us what a list has shown.
    has_listed            all kinds have been listed once.
    answer_age_seconds    since the API server last answered anything; None: never.
    max_answer_age_seconds  how old that may be.
    last_error            what the API server, or the way to it, said last; empty if all is well.
    """

    queue_idle_seconds: float = 0.0
    behind_seconds: Mapping[str, float] = field(default_factory=dict)
    has_listed: bool = False
    answer_age_seconds: float | None = None
    max_answer_age_seconds: float = 60.0
    last_error: str = ""


def find_mortal_fault(vitals: Vitals) -> str | None:
    """What only a restart mends; None while the operator lives."""
    if vitals.queue_idle_seconds > MAX_SILENCE_SECONDS:
        return f"the queue has not turned for {vitals.queue_idle_seconds:.0f} s"
    for kind, seconds in vitals.behind_seconds.items():
        if seconds > MAX_BEHIND_SECONDS:
            return f"the watch of kind {kind} has been blind for {seconds:.0f} s"
    return None


def find_unreadiness(vitals: Vitals) -> str | None:
    """Why the operator cannot do its work now; None if it can."""
    if (fault := find_mortal_fault(vitals)) is not None:
        return fault
    if not vitals.has_listed:
        return f"InferenceJobs have not been listed yet: {vitals.last_error or 'being listed'}"
    age = vitals.answer_age_seconds
    if age is None or age > vitals.max_answer_age_seconds:
        return f"no answer from the API server for {age or 0:.0f} s: {vitals.last_error}"
    return None
