"""pytest fixtures: import them in the conftest.py of the tests that use them.

Each is started once a session, at its first use. A test leaves it as it found it: it deletes what
it made, and starts what it stopped.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from retina_otel.testing.cluster.cluster import Cluster
from retina_otel.testing.cluster.control_plane import ControlPlane


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    """etcd and an API server on loopback (4 s). No controllers, no nodes."""
    with ControlPlane() as made:
        yield made


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A control plane with controllers, one node, CoreDNS (13 s)."""
    with Cluster() as made:
        yield made
