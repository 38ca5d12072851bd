"""A real Kubernetes for tests: a control plane alone, or a cluster with real nodes and pods."""

from retina_otel.testing.cluster.cluster import WORKLOADS, Cluster
from retina_otel.testing.cluster.control_plane import ControlPlane

__all__ = ["WORKLOADS", "Cluster", "ControlPlane"]
