"""A request between two engines: what goes on, or what is said of it if it cannot."""

from __future__ import annotations

import msgspec

from pipemax_worker.contract.request import (
    FinishedRequest,
    FinishReason,
    RecordKey,
    Request,
    RequestProgress,
)

STAGE_FAILURE_CODE = "stage_failure"


class HeldRequest(msgspec.Struct, frozen=True):
    """A request that is in no engine, and how far it is."""

    request: Request
    progress: RequestProgress | None

    @property
    def name(self) -> tuple[RecordKey, int]:
        return self.request.key, self.request.choice

    @property
    def num_remaining_tokens(self) -> int:
        """Outputs that are still to be generated, at most."""
        known = self.progress.output_token_ids if self.progress else ()
        return self.request.sampling.max_tokens - len(known)

    def fail(self, message: str) -> FinishedRequest:
        """Its end, if it cannot run."""
        return FinishedRequest(
            key=self.request.key,
            choice=self.request.choice,
            token_ids=self.progress.output_token_ids if self.progress else (),
            finish_reason=FinishReason.ERROR,
            num_prompt_tokens=len(self.request.prompt_token_ids),
            error_code=STAGE_FAILURE_CODE,
            error_message=message,
        )


def without_kv(progress: RequestProgress) -> RequestProgress:
    """The KV that it names is gone with the pipeline that had adopted it."""
    return msgspec.structs.replace(progress, num_computed_tokens=0, nvme_slots=())
