"""How the operator itself runs, from the environment of its process. Frozen."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class ProcessSettings:
    """Each field's variable is ``PIPEMAX_`` and its name in capitals.

    namespaces      those that kopf is told by ``--namespace``, with commas; empty: all.
    lease           ``namespace/name`` of the Lease that chooses the one active operator; empty:
                    this one is alone by arrangement.
    identity        names this process among all operators. The pod's name, so that a container
                    that comes again goes on at once; else a name of its own.
    lease_seconds   how long a lease is held beyond its last renewal.
    watch_seconds   how long a watch lives, and, and a third more, how long it may be silent.
    audit_seconds   between two lists of everything.
    metrics_port    of ``/metrics`` and ``/readyz``; 0: not served.
    scanning        ``disabled`` where the operator may not watch CRDs and namespaces.
    """

    namespaces: tuple[str, ...] = ()
    lease: str = ""
    identity: str = ""
    lease_seconds: float = 15.0
    watch_seconds: float = 30.0
    audit_seconds: float = 300.0
    metrics_port: int = 0
    scanning: str = "enabled"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> ProcessSettings:
        """Raises ValueError for what is no number, or no ``namespace/name``."""

        def get(name: str, default: str) -> str:
            return environment.get(f"PIPEMAX_{name.upper()}") or default

        settings = cls(
            namespaces=tuple(filter(None, get("namespaces", "").split(","))),
            lease=get("lease", ""),
            identity=get("identity", f"{socket.gethostname()}_{uuid.uuid4().hex[:8]}"),
            lease_seconds=float(get("lease_seconds", "15")),
            watch_seconds=float(get("watch_seconds", "30")),
            audit_seconds=float(get("audit_seconds", "300")),
            metrics_port=int(get("metrics_port", "0")),
            scanning=get("scanning", "enabled"),
        )
        if settings.lease and settings.lease.count("/") != 1:
            raise ValueError(f"PIPEMAX_LEASE must be namespace/name, not {settings.lease!r}")
        return settings
