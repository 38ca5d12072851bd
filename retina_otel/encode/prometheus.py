"""Points as Prometheus text 0.0.4 and OpenMetrics 1.0, in chunks, label text cached by set.

No series stands there twice, and no name is used by two families: what would break a scrape is left
out and counted. Series that have ended are left out: that is how a scrape says it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from retina_otel.encode.otlp_metrics import by_metric
from retina_otel.encode.prometheus_labels import LabelNames, LabelTable, label_text, labels
from retina_otel.encode.prometheus_names import escaped, family_name, unit_word
from retina_otel.encode.protobuf import utf8
from retina_otel.encode.scopes import scope_identity, sorted_set
from retina_otel.encode.set_cache import SetCache
from retina_otel.model.attribute_sets import AttributeSets
from retina_otel.model.batches import AttributeValue, Histogram
from retina_otel.model.signals import Kind, Metric
from retina_otel.pipeline.points import PointBlock, Temporality

TEXT_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS_CONTENT_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"

_TYPE = {
    Kind.COUNTER: "counter",
    Kind.UPDOWN: "gauge",
    Kind.GAUGE: "gauge",
    Kind.HISTOGRAM: "histogram",
}
_SUFFIXES = {
    Kind.COUNTER: ("", "_total", "_created"),
    Kind.UPDOWN: ("",),
    Kind.GAUGE: ("",),
    Kind.HISTOGRAM: ("", "_bucket", "_count", "_sum", "_created"),
}
_STEP = 4096
"""Lines written at a time: about 2 MB."""


@dataclass(slots=True)
class _Family:
    """Blocks that share a name. `metric` is the first of them: it gives type, unit and help."""

    name: str
    metric: Metric
    blocks: list[PointBlock] = field(default_factory=list)


class PrometheusRenderer:
    """Renders scrapes. Keeps label text of attribute sets only; one thread at a time."""

    def __init__(self, resource: Mapping[str, AttributeValue]) -> None:
        self._resource = labels(sorted_set(resource))
        names = LabelNames()

        def make(sets: AttributeSets) -> LabelTable:
            return LabelTable(sets, names)

        self._tables = SetCache(make)
        self.conflicts: dict[str, str] = {}
        """Metrics that the last scrape left out, and why: another has the name."""
        self.duplicates = 0
        """Points that the last scrape left out: a newer one has equal labels."""

    def render(self, blocks: Iterable[PointBlock], openmetrics: bool = False) -> bytes:
        """A whole scrape."""
        return b"".join(self.chunks(blocks, openmetrics))

    def chunks(self, blocks: Iterable[PointBlock], openmetrics: bool = False) -> Iterator[bytes]:
        """A scrape, about 2 MB at a time. Blocks must be cumulative; ValueError if one is not."""
        self.duplicates = 0
        if self._resource:
            yield self._target_info(openmetrics)
        for family in self._families(blocks):
            described = False
            for lines in self._lines(family, openmetrics):
                if not described:
                    yield _description(family, openmetrics)
                    described = True
                yield lines
        if openmetrics:
            yield b"# EOF\n"

    def _target_info(self, openmetrics: bool) -> bytes:
        family = "target" if openmetrics else "target_info"
        kind = "info" if openmetrics else "gauge"
        text = label_text(self._resource)[1:]
        return b"".join(
            [
                f"# TYPE {family} {kind}\n".encode(),
                f"# HELP {family} Target metadata\n".encode(),
                b"target_info{" + text + b"} 1\n",
            ]
        )

    def _families(self, blocks: Iterable[PointBlock]) -> list[_Family]:
        self.conflicts = {}
        owners: dict[str, _Family | None] = {"target": None, "target_info": None}
        families = []
        for metric, temporality, same in by_metric(blocks):
            cumulative = temporality is Temporality.CUMULATIVE or metric.kind is Kind.GAUGE
            if not cumulative:
                raise ValueError(f"{metric.name}: a scrape has no delta temporality")
            name = family_name(metric.name, metric.unit, metric.kind)
            if not name:
                self.conflicts[metric.name] = "no character of its name can stand in Prometheus"
                continue
            taken = [name + suffix for suffix in _SUFFIXES[metric.kind] if name + suffix in owners]
            family = owners.get(name)
            if family and (family.name, _type(family.metric)) == (name, _type(metric)):
                family.blocks += same
            elif taken:
                self.conflicts[metric.name] = f"{taken[0]} is already another metric"
            else:
                family = _Family(name, metric, same)
                families.append(family)
                for suffix in _SUFFIXES[metric.kind]:
                    owners[name + suffix] = family
        return families

    def _lines(self, family: _Family, openmetrics: bool) -> Iterator[bytes]:
        for block, kept in self._unique(family):
            table = self._tables.table(block.sets)
            scope = _scope_labels(block.metric.scope)
            step = max(1, _STEP // (len(block.metric.boundaries) + 1))
            for low in range(0, len(kept), step):
                rows = kept[low : low + step]
                columns = [ids[rows] for ids in (block.source, block.destination, block.own)]
                used = [ids for ids in columns if ids.any()] or [columns[-1]]
                parts = table.texts(*used)
                lines = _Lines(family.name.encode(), scope, parts)
                if isinstance(block.values, Histogram):
                    _add_histograms(lines, block, block.values, rows)
                else:
                    counter = block.metric.kind is Kind.COUNTER
                    lines.sample(b"_total" if counter else b"", _texts(block.values[rows]))
                if openmetrics and block.metric.kind in (Kind.COUNTER, Kind.HISTOGRAM):
                    lines.sample(b"_created", _seconds(block.start_ns[rows]))
                yield lines.join()

    def _unique(self, family: _Family) -> Iterator[tuple[PointBlock, npt.NDArray[np.intp]]]:
        """The rows of each block to write: not ended, and of equal labels only the newest."""
        kept = [np.flatnonzero(~block.no_value) for block in family.blocks]
        keys = [self._keys(block, rows) for block, rows in zip(family.blocks, kept, strict=True)]
        every = np.concatenate(keys)
        values, counts = np.unique(every, return_counts=True)
        if len(values) < len(every):
            suspects = values[counts > 1]
            newest: dict[bytes, tuple[int, int, int]] = {}
            keeps = [np.ones(len(rows), bool) for rows in kept]
            for place, block in enumerate(family.blocks):
                for index in np.flatnonzero(np.isin(keys[place], suspects)).tolist():
                    row = int(kept[place][index])
                    text = self._labels_of(block, row)
                    this = (int(block.time_ns[row]), place, index)
                    other = newest.get(text)
                    newest[text] = this if other is None else max(this, other)
                    if other is not None:
                        _, loser_place, loser_index = min(this, other)
                        keeps[loser_place][loser_index] = False
                        self.duplicates += 1
            kept = [rows[keep] for rows, keep in zip(kept, keeps, strict=True)]
        yield from zip(family.blocks, kept, strict=True)

    def _keys(self, block: PointBlock, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.uint64]:
        columns = [ids[rows] for ids in (block.source, block.destination, block.own)]
        table = self._tables.table(block.sets)
        table.refresh(*columns)
        return table.keys(*columns) + np.uint64(hash(block.metric.scope) & 2**64 - 1)

    def _labels_of(self, block: PointBlock, row: int) -> bytes:
        ids = (block.source[row], block.destination[row], block.own[row])
        pairs = [pair for number in ids for pair in block.sets.get(int(number))]
        return _scope_labels(block.metric.scope) + label_text(labels(tuple(pairs)))


def render(
    blocks: Iterable[PointBlock],
    resource: Mapping[str, AttributeValue],
    openmetrics: bool = False,
) -> bytes:
    """A whole scrape without keeping anything for the next one."""
    return PrometheusRenderer(resource).render(blocks, openmetrics)


def _scope_labels(scope: str) -> bytes:
    version, _ = scope_identity(scope)
    pairs = {"otel_scope_name": scope}
    if version:
        pairs["otel_scope_version"] = version
    return label_text(pairs)[1:]


def _type(metric: Metric) -> str:
    return _TYPE[metric.kind]


def _description(family: _Family, openmetrics: bool) -> bytes:
    metric = family.metric
    counter = metric.kind is Kind.COUNTER and not openmetrics
    name = family.name + "_total" if counter else family.name
    lines = [f"# TYPE {name} {_type(metric)}\n"]
    unit = unit_word(metric.unit, metric.kind)
    if openmetrics and unit and name.endswith("_" + unit):
        lines.append(f"# UNIT {name} {unit}\n")
    if metric.brief:
        text = metric.brief.replace("\\", "\\\\").replace("\n", "\\n")
        lines.append(f"# HELP {name} {escaped(metric.brief) if openmetrics else text}\n")
    return utf8("".join(lines))


def _add_histograms(
    lines: _Lines, block: PointBlock, values: Histogram, rows: npt.NDArray[np.intp]
) -> None:
    counts = np.cumsum(values.counts[rows], axis=1)
    bounds = [*map(repr, map(float, block.metric.boundaries)), "+Inf"]
    for bucket, bound in enumerate(bounds):
        lines.sample(b"_bucket", _texts(counts[:, bucket]), f',le="{bound}"'.encode())
    lines.sample(b"_count", _texts(counts[:, -1]))
    lines.sample(b"_sum", _texts(values.sums[rows]))


class _Lines:
    """Sample lines of n series of one family, all lines of a series beside each other."""

    def __init__(self, name: bytes, scope: bytes, parts: list[npt.NDArray[np.object_]]) -> None:
        self._name = name
        self._scope = scope
        self._parts = parts
        self._columns: list[npt.NDArray[np.object_] | bytes] = []

    def sample(
        self, suffix: bytes, values: npt.NDArray[np.object_], last_label: bytes = b""
    ) -> None:
        head = self._name + suffix + b"{" + self._scope
        self._columns += [head, *self._parts, last_label + b"} ", values, b"\n"]

    def join(self) -> bytes:
        pieces = np.empty((len(self._parts[0]), len(self._columns)), object)
        for place, column in enumerate(self._columns):
            pieces[:, place] = column
        return b"".join(pieces.ravel().tolist())


def _texts(values: npt.NDArray[np.int64] | npt.NDArray[np.float64]) -> npt.NDArray[np.object_]:
    if values.dtype.kind == "f":
        listed = [_double(value) for value in values.tolist()]
    else:
        listed = list(map(str, values.tolist()))
    out = np.empty(len(listed), object)
    out[:] = "\n".join(listed).encode().split(b"\n") if listed else []
    return out


def _double(value: float) -> str:
    text = repr(value)
    return {"nan": "NaN", "inf": "+Inf", "-inf": "-Inf"}.get(text, text)


def _seconds(times_ns: npt.NDArray[np.int64]) -> npt.NDArray[np.object_]:
    """Unix seconds with all nanoseconds: many series share a start, so each is written once."""
    times, rows = np.unique(times_ns, return_inverse=True)
    texts = np.empty(len(times), object)
    texts[:] = [b"%d.%09d" % divmod(time, 1_000_000_000) for time in times.tolist()]
    return texts[rows]
