"""Real nodes for a test that needs them: a machine that cannot run any is an error, not a skip."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping

import pytest
from kit.control_plane.control_plane import ControlPlane
from kit.control_plane.real_node import RealNode, real_nodes
from kit.control_plane.real_node_needs import ALLOW_STANDIN, NodesImpossibleError

Nodes = Mapping[str, RealNode]


@contextlib.contextmanager
def required_nodes(plane: ControlPlane, *names: str) -> Iterator[Nodes]:
    """:func:`real_nodes` with 8 GPUs each.

    Raises NodesImpossibleError; skips the test instead only where PIPEMAX_ALLOW_STANDIN=1 says so.
    """
    with contextlib.ExitStack() as stack:
        try:
            found = stack.enter_context(real_nodes(plane, *names))
        except NodesImpossibleError as problem:
            if os.environ.get(ALLOW_STANDIN) != "1":
                raise
            pytest.skip(str(problem))
        yield found
