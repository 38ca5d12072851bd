"""Points as Prometheus text 0.0.4 and OpenMetrics 1.0, in chunks, label text cached by set.

What stands on the page, and what is left out, `prometheus_families` decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
import numpy.typing as npt

from retina_otel.encode.prometheus.escaping import Naming, is_classic
from retina_otel.encode.prometheus.families import (
    TARGET_INFO,
    Families,
    Family,
    Rows,
    scope_labels,
    type_of,
)
from retina_otel.encode.prometheus.labels import label_text, quoted
from retina_otel.encode.prometheus.names import escaped, unit_word
from retina_otel.encode.protobuf import utf8
from retina_otel.model.batches import AttributeValue, Histogram
from retina_otel.model.signals import Kind
from retina_otel.pipeline.points import PointBlock

_STEP = 2048
"""Lines written at a time: about 1 MB."""

_Column = Callable[[bytes, bytes], list[bytes] | npt.NDArray[np.object_]]
"""Gives the value of each series as text, between what stands before it and after it."""


class PrometheusRenderer:
    """Renders scrapes. Keeps label text of attribute sets only; one thread at a time."""

    def __init__(
        self,
        resource: Mapping[str, AttributeValue],
        naming: Naming | None = None,
        *,
        created: bool = False,
    ) -> None:
        """`created`: OpenMetrics says of each series when it began."""
        self._created = created
        self.families = Families(resource, naming or Naming(), label_text)

    def render(self, blocks: Iterable[PointBlock], openmetrics: bool = False) -> bytes:
        """A whole scrape."""
        return b"".join(self.chunks(blocks, openmetrics))

    def chunks(self, blocks: Iterable[PointBlock], openmetrics: bool = False) -> Iterator[bytes]:
        """A scrape, about 1 MB at a time. Blocks must be cumulative; ValueError if one is not."""
        if self.families.target:
            yield self._target_info(openmetrics)
        for family in self.families.of(blocks):
            yield _description(family, openmetrics)
            for block, rows in self.families.rows(family):
                step = max(1, _STEP // (len(block.metric.boundaries) + 1))
                for low in range(0, len(rows), step):
                    yield self._lines(family, block, rows[low : low + step], openmetrics)
        if openmetrics:
            yield b"# EOF\n"

    def _target_info(self, openmetrics: bool) -> bytes:
        family = TARGET_INFO.removesuffix("_info") if openmetrics else TARGET_INFO
        kind = "info" if openmetrics else "gauge"
        text = label_text(self.families.target)[1:]
        return b"".join(
            [
                f"# TYPE {family} {kind}\n".encode(),
                f"# HELP {family} Target metadata\n".encode(),
                TARGET_INFO.encode() + b"{" + text + b"} 1\n",
            ]
        )

    def _lines(self, family: Family, block: PointBlock, rows: Rows, openmetrics: bool) -> bytes:
        parts, _ = self.families.parts(block, rows)
        lines = _Lines(block.metric.scope, parts)
        if isinstance(block.values, Histogram):
            _add_histograms(lines, family.name, block, block.values, rows)
        else:
            lines.sample(family.name, _numbers(block.values[rows]))
        begins = block.metric.kind is Kind.HISTOGRAM or family.stem != family.name
        if openmetrics and self._created and begins:
            lines.sample(family.stem + "_created", _seconds(block.start_ns[rows]))
        return lines.join()


def render(
    blocks: Iterable[PointBlock],
    resource: Mapping[str, AttributeValue],
    openmetrics: bool = False,
    naming: Naming | None = None,
    *,
    created: bool = False,
) -> bytes:
    """A whole scrape without keeping anything for the next one."""
    return PrometheusRenderer(resource, naming, created=created).render(blocks, openmetrics)


def _description(family: Family, openmetrics: bool) -> bytes:
    metric = family.metric
    plain = family.stem if openmetrics else family.name
    name = quoted(plain)
    kind = type_of(metric)
    if openmetrics and kind == "counter" and family.stem == family.name:
        # OpenMetrics has no counter whose name does not end with _total.
        kind = "unknown"
    lines = [f"# TYPE {name} {kind}\n"]
    unit = unit_word(metric.unit, metric.kind)
    if openmetrics and unit and plain.endswith("_" + unit):
        lines.append(f"# UNIT {name} {unit}\n")
    if metric.brief:
        text = metric.brief.replace("\\", "\\\\").replace("\n", "\\n")
        lines.append(f"# HELP {name} {escaped(metric.brief) if openmetrics else text}\n")
    return utf8("".join(lines))


def _add_histograms(
    lines: _Lines, name: str, block: PointBlock, values: Histogram, rows: Rows
) -> None:
    counts = np.cumsum(values.counts[rows], axis=1)
    bounds = [*map(repr, map(float, block.metric.boundaries)), "+Inf"]
    for bucket, bound in enumerate(bounds):
        lines.sample(name + "_bucket", _numbers(counts[:, bucket]), f',le="{bound}"')
    lines.sample(name + "_count", _numbers(counts[:, -1]))
    lines.sample(name + "_sum", _numbers(values.sums[rows]))


def _without_first_comma(parts: list[npt.NDArray[np.object_]]) -> list[npt.NDArray[np.object_]]:
    whole = np.empty(len(parts[0]), object)
    whole[:] = [b"".join(row)[1:] for row in zip(*parts, strict=True)]
    return [whole]


class _Lines:
    """Sample lines of n series of one family, all lines of a series beside each other.

    The end of a line and the start of the next are one piece, so that there are few to join.
    """

    def __init__(self, scope: str, parts: list[npt.NDArray[np.object_]]) -> None:
        self._scope = label_text(scope_labels(scope))[1:]
        self._parts = parts if self._scope else _without_first_comma(parts)
        self._samples: list[tuple[bytes, _Column, bytes]] = []

    def sample(self, name: str, column: _Column, last_label: str = "") -> None:
        """One line for each series, with its value."""
        start = utf8(name) + b"{" if is_classic(name) else b"{" + utf8(quoted(name)) + b","
        self._samples.append((start + self._scope, column, last_label.encode() + b"} "))

    def join(self) -> bytes:
        heads = [head for head, _, _ in self._samples]
        width = len(self._parts) + 1
        pieces = np.empty((len(self._parts[0]), width * len(heads)), object)
        for place, (_, column, before) in enumerate(self._samples):
            after = b"\n" + heads[(place + 1) % len(heads)]
            for offset, part in enumerate(self._parts, width * place):
                pieces[:, offset] = part
            pieces[:, width * (place + 1) - 1] = column(before, after)
        pieces[-1, -1] = pieces[-1, -1].removesuffix(heads[0])
        return heads[0] + b"".join(pieces.ravel().tolist())


def _numbers(values: npt.NDArray[np.int64] | npt.NDArray[np.float64]) -> _Column:
    def between(before: bytes, after: bytes) -> list[bytes]:
        if values.dtype.kind == "f":
            return [before + _double(value) + after for value in values.tolist()]
        form = before.replace(b"%", b"%%") + b"%d" + after.replace(b"%", b"%%")
        return [form % value for value in values.tolist()]

    return between


def _double(value: float) -> bytes:
    text = repr(value)
    return {"nan": b"NaN", "inf": b"+Inf", "-inf": b"-Inf"}.get(text) or text.encode()


def _seconds(times_ns: npt.NDArray[np.int64]) -> _Column:
    """Unix seconds with all nanoseconds: many series share a start, so each is written once."""

    def between(before: bytes, after: bytes) -> npt.NDArray[np.object_]:
        times, rows = np.unique(times_ns, return_inverse=True)
        texts = np.empty(len(times), object)
        texts[:] = [
            b"%b%d.%09d%b" % (before, *divmod(time, 1_000_000_000), after)
            for time in times.tolist()
        ]
        return texts[rows]

    return between
