"""Overlay: what is reported of some metrics, laid over what the configuration says of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Overlay:
    """What an extension wants reported (Retina's MetricsConfiguration). In the metrics pipelines
    that have the `identity` processor it replaces what the configuration says of these metrics."""

    attributes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By metric name, as a pipeline's `attributes`."""
    expiry: Mapping[str, float] = field(default_factory=dict)
    """By metric name, seconds; `inf`: never."""
    exclude: frozenset[str] = frozenset()
    """Metrics that are not to be reported at all."""

    @classmethod
    def of_all(cls, overlays: Iterable[Overlay]) -> Overlay:
        """One for several: of those that speak of a metric the last one counts."""
        attributes: dict[str, tuple[str, ...]] = {}
        expiry: dict[str, float] = {}
        exclude: frozenset[str] = frozenset()
        for one in overlays:
            attributes |= one.attributes
            expiry |= one.expiry
            exclude = (exclude - one.attributes.keys()) | one.exclude
        return cls(attributes, expiry, exclude)
