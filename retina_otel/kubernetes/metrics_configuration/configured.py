"""The MetricsConfigurations that there are, merged, as a source tells of them."""

from __future__ import annotations

from retina_otel.kubernetes.api.watch import Change
from retina_otel.kubernetes.metrics_configuration.merge import Merged, merge
from retina_otel.kubernetes.metrics_configuration.objects import MetricsConfiguration, read_reduced
from retina_otel.kubernetes.objects import RawMetricsConfiguration


class Configured:
    """Not for several threads at once."""

    def __init__(self) -> None:
        self._objects: dict[str, MetricsConfiguration] = {}
        self.merged = Merged()

    def apply(self, change: Change) -> bool:
        """Whether what they come to is another now."""
        for one in change.upserted:
            if isinstance(one, RawMetricsConfiguration):
                self._objects[one.meta.uid] = read_reduced(one)
        gone = {one.meta.uid for one in change.deleted}
        if change.full:
            listed = change.listed
            if listed is None:
                listed = frozenset(one.meta.uid for one in change.upserted)
            gone |= self._objects.keys() - listed
        for uid in gone:
            self._objects.pop(uid, None)
        before, self.merged = self.merged, merge(self._objects.values())
        return self.merged != before
