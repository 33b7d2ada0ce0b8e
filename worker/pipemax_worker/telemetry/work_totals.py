"""How much of a job is done in a part of its input, and how much the whole will be. Pure."""

from __future__ import annotations

import msgspec


class WorkTotals(msgspec.Struct, frozen=True):
    """Sums over some ranges of the input; those of different ranges add up.

    num_done, num_failed   requests with a record, and those of them with an error record.
    *_tokens               of these records, as far as they are written.
    bytes_done             of the input, of lines with a record.
    num_read, bytes_read   requests that were read, whether done or not, and their bytes: what the
                           rest of the input is judged by.
    """

    num_done: int = 0
    num_failed: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    bytes_done: int = 0
    num_read: int = 0
    bytes_read: int = 0

    def __add__(self, other: WorkTotals) -> WorkTotals:
        pairs = zip(msgspec.structs.astuple(self), msgspec.structs.astuple(other), strict=True)
        return WorkTotals(*(one + another for one, another in pairs))

    def estimate_num_requests(self, input_bytes: int) -> int | None:
        """Of the whole input, whose unread bytes are taken to be like the read ones; exact once all
        is read. None while nothing is."""
        if not self.num_read or not self.bytes_read:
            return self.num_done or None
        estimate = -(-self.num_read * input_bytes // self.bytes_read)
        return max(estimate, self.num_done)

    def as_json(self) -> dict[str, int]:
        """As ``/progress`` has it."""
        return {
            "done": self.num_done,
            "failed": self.num_failed,
            "promptTokens": self.prompt_tokens,
            "generatedTokens": self.generated_tokens,
            "bytesDone": self.bytes_done,
            "read": self.num_read,
            "bytesRead": self.bytes_read,
        }
