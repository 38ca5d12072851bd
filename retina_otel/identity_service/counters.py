"""The service's own metrics: counters that any thread adds to, as Prometheus text."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

PREFIX = "retina_otel_identity_service_"


@dataclass(frozen=True, slots=True)
class Family:
    """A metric: name without the prefix, type, what it says, its label if it has one."""

    name: str
    type: str  # "counter" | "gauge"
    help: str
    label: str = ""


FAMILIES = (
    Family("streams", "gauge", "Agents that read now."),
    Family("objects", "gauge", "Objects in memory, by kind.", "kind"),
    Family("watch_synced", "gauge", "1 where the watch of a kind is up to date, 0 else.", "kind"),
    Family("leader", "gauge", "1 in the replica that writes status, 0 in the others."),
    Family("streams_started_total", "counter", "Streams that were let in.", "start"),
    Family("streams_ended_total", "counter", "Streams that ended, by why.", "reason"),
    Family("refusals_total", "counter", "Requests that got nothing, by why.", "reason"),
    Family("batches_total", "counter", "Batches of changes that were cut."),
    Family("changed_objects_total", "counter", "Objects in these batches."),
    Family("frames_sent_total", "counter", "Frames that were handed to connections.", "type"),
    Family("sent_bytes_total", "counter", "Bytes of these frames.", "type"),
    Family("resyncs_total", "counter", "Fresh snapshots for agents that had fallen behind."),
    Family("token_reviews_total", "counter", "Questions to the API server about a token."),
    Family("cpu_seconds_total", "counter", "CPU time of the process."),
    Family("resident_memory_bytes", "gauge", "Memory of the process."),
)
_BY_NAME = {family.name: family for family in FAMILIES}


class Counters:
    """Values by family and label."""

    def __init__(self) -> None:
        self._values: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()

    def add(self, family: str, amount: int = 1, label: str = "") -> None:
        with self._lock:
            self._values[family, label] += amount

    def value(self, family: str, label: str = "") -> int:
        return self._values[family, label]

    def labels(self) -> list[tuple[str, str]]:
        """Family and label of all that was counted."""
        with self._lock:
            return sorted(self._values)

    def render(self, gauges: Mapping[str, Callable[[], Mapping[str, float]]]) -> bytes:
        """Prometheus text; `gauges` gives values by label for families that are read on demand."""
        with self._lock:
            values = dict(self._values)
        by_family: dict[str, dict[str, float]] = {}
        for (name, label), value in values.items():
            by_family.setdefault(name, {})[label] = value
        for name, read in gauges.items():
            by_family.setdefault(name, {}).update(read())
        return "".join(_lines(by_family)).encode()


def _lines(by_family: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    for family in FAMILIES:
        values: Iterable[tuple[str, float]] = sorted(by_family.get(family.name, {}).items())
        if not family.label:
            values = values or [("", 0)]
        name = PREFIX + family.name
        yield f"# HELP {name} {family.help}\n# TYPE {name} {family.type}\n"
        for label, value in values:
            labels = f'{{{family.label}="{_escaped(label)}"}}' if family.label else ""
            yield f"{name}{labels} {value:.15g}\n"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
