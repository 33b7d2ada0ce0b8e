"""Checks lines by what ``run`` would do with them, short of computing them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import msgspec

from pipemax_worker.contract.request import Request
from pipemax_worker.dataset.inputs import InputFile
from pipemax_worker.dataset.ranges import InputRange
from pipemax_worker.dataset.reader import MAX_LINE_BYTES, Line, RangeReader
from pipemax_worker.dataset.repeated_ids import IdPartitions, Place
from pipemax_worker.errors import RequestError
from pipemax_worker.prompts.line import read_custom_id
from pipemax_worker.prompts.processor import PromptProcessor

MAX_FAULTS_SHOWN = 20


class LineFault(msgspec.Struct, frozen=True, order=True):
    """A line that is wrong: where, and why."""

    place: Place
    code: str
    message: str


class PortionReport(msgspec.Struct, frozen=True):
    """Of a part of the input. ``reasons`` maps an error code to its number of lines; of the
    ``faults`` the first ones are kept."""

    num_lines: int
    reasons: dict[str, int]
    faults: tuple[LineFault, ...]


class LineChecker:
    """Places name a file by its number in ``files``."""

    def __init__(
        self,
        files: Sequence[InputFile],
        processor: PromptProcessor,
        check_request: Callable[[Request], None],
    ) -> None:
        self._file_numbers = {file.name: number for number, file in enumerate(files)}
        self._processor = processor
        self._check_request = check_request

    def check_portion(self, portion: InputRange, ids: IdPartitions) -> PortionReport:
        """Check the lines that begin in ``portion``; their ids are handed to ``ids``.

        Raises InputError, OutputError.
        """
        num_lines, reasons, faults = 0, Counter[str](), list[LineFault]()
        for line in RangeReader(portion):
            num_lines += 1
            place = Place(self._file_numbers[line.key.file], line.key.offset)
            error = self._check(line)
            if error is not None:
                reasons[error.code] += 1
                if len(faults) < MAX_FAULTS_SHOWN:
                    faults.append(LineFault(place, error.code, str(error)))
            if (custom_id := read_custom_id(line.data)) is not None:
                ids.add(custom_id, place, is_faulty=error is not None)
        ids.flush()
        return PortionReport(num_lines, dict(reasons), tuple(faults))

    def close(self) -> None:
        """End the process that compiles schemas, if there is one."""
        self._processor.close()

    def _check(self, line: Line) -> RequestError | None:
        try:
            if line.is_too_long:
                message = f"the line is longer than {MAX_LINE_BYTES} bytes; shorten it"
                raise RequestError("line_too_long", message)
            prepared = self._processor.prepare(line.data, line.key, None)
            self._check_request(prepared.requests[0])
        except RequestError as error:
            return error
        return None
