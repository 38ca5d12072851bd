"""The `kubernetes` extension: who each end is, by the Kubernetes API."""

from __future__ import annotations

from retina_otel.component import Component, ComponentKind
from retina_otel.extensions.kubernetes.extension import Kubernetes
from retina_otel.extensions.kubernetes.settings import KubernetesSettings

COMPONENT = Component(
    type="kubernetes",
    kind=ComponentKind.EXTENSION,
    stability="alpha",
    Settings=KubernetesSettings,
    create=Kubernetes,
    signals=frozenset(),
)

__all__ = ["COMPONENT", "Kubernetes", "KubernetesSettings"]
