"""A real control plane and a real cluster, each started once for all tests of this folder.

They end with the last of these, not with the session: what a cluster sends and drops all the time
would be seen by the tests of other folders, which have the machine's drops to themselves.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from retina_otel.testing.cluster import Cluster, ControlPlane
from tests.cluster.pods import pods

__all__ = ["pods"]

HERE = Path(__file__).parent
_running = ExitStack()


@pytest.fixture(scope="session")
def control_plane() -> ControlPlane:
    """etcd and an API server on loopback (4 s). No controllers, no nodes."""
    return _running.enter_context(ControlPlane())


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    """A control plane with controllers, one node, CoreDNS (13 s)."""
    return _running.enter_context(Cluster())


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    if nextitem is None or HERE not in nextitem.path.parents:
        _running.close()


def pytest_sessionfinish() -> None:
    _running.close()
