"""An engine that answers at once, or fails the requests that it is told to fail."""

from __future__ import annotations

from collections.abc import Callable

from kit.fake_run import FakeEngine, finish
from pipemax_worker.contract.request import FinishedRequest, FinishReason, Request


class FlakyEngine(FakeEngine):
    """``fails`` says of a request whether it fails now; ``code`` is the error's."""

    def __init__(self, per_step: int = 4) -> None:
        super().__init__(per_step)
        self.fails: Callable[[Request], bool] = lambda _: False
        self.code = "stage_died"

    def step(self) -> list[FinishedRequest]:
        return [self._spoil(one) for one in super().step()]

    def _spoil(self, finished: FinishedRequest) -> FinishedRequest:
        request = next(one for one in reversed(self.seen) if one.key == finished.key)
        if not self.fails(request):
            return finished
        return finish(request, (), FinishReason.ERROR, self.code)
