"""What a run says when its pipeline has died, and what the record of a line says that did it."""

from __future__ import annotations

from pipemax_worker.runner.recovery import Trial


def describe_death(trial: Trial, cause: str, num_suspects: int) -> str:
    """``trial`` is what follows from the death; ``num_suspects`` lines may have caused it."""
    restart = f"{cause}; the pipeline is started again and the job goes on"
    if not trial.is_open:
        return restart
    alone = "1 request runs" if len(trial.running) == 1 else f"{len(trial.running)} requests run"
    if trial.accused:
        return f"{restart}: {alone} alone, to see whether the machine works"
    of_all = f" of {num_suspects} that may be the cause" if num_suspects else ""
    return f"{restart}: {alone} alone first{of_all}"


def describe_condemned(cause: str) -> str:
    """The message of the error record, which names the line itself."""
    return f"the pipeline dies whenever this request runs, also when it runs alone: {cause}"


def describe_hopeless(trial: Trial, cause: str) -> str:
    if len(trial.accused) > 1:
        why = f"{len(trial.accused)} requests in a row killed it, each running alone"
    else:
        why = "no request can have caused it"
    return (
        f"{cause}; the pipeline dies again and again with no request finished in between, and "
        f"{why}: look at the machine (memory, GPUs, disks), then run the same command again; "
        "what is finished is written, and no request was given up for this"
    )
