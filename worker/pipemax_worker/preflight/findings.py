"""What a check says: fine, worth knowing, or the end, and what helps."""

from __future__ import annotations

import enum
from collections.abc import Iterable

import msgspec


class Severity(enum.StrEnum):
    """``FATAL``: the job cannot run on this machine."""

    OK = "ok"
    WARNING = "warning"
    FATAL = "fatal"


class Finding(msgspec.Struct, frozen=True):
    """``check`` names what was looked at; ``remedy`` is a sentence, empty where none is needed."""

    check: str
    severity: Severity
    message: str
    remedy: str = ""

    def describe(self) -> str:
        """One line for a person."""
        return f"{self.check}: {self.message}" + (f"; {self.remedy}" if self.remedy else "")


def select(findings: Iterable[Finding], severity: Severity) -> tuple[Finding, ...]:
    """Those of that severity, in order."""
    return tuple(finding for finding in findings if finding.severity is severity)
