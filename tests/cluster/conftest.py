"""A real control plane and a real cluster, each started once for all tests of this folder."""

from __future__ import annotations

from retina_otel.testing.cluster.fixtures import cluster, control_plane
from tests.cluster.pods import pods

__all__ = ["cluster", "control_plane", "pods"]
