"""Which points stand on a page, under which names: the same for every format.

No series stands there twice, and no name is used by two families: what would break a scrape is left
out and counted. Series that have ended are left out: that is how a scrape says it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from retina_otel.encode.grouping import by_metric
from retina_otel.encode.prometheus.escaping import Naming
from retina_otel.encode.prometheus.labels import Blob, LabelNames, LabelTable, named_labels
from retina_otel.encode.scopes import scope_identity, sorted_set
from retina_otel.encode.set_cache import SetCache
from retina_otel.model.attribute_sets import AttributeSets
from retina_otel.model.batches import AttributeValue
from retina_otel.model.classic import SCOPE as CLASSIC_SCOPE
from retina_otel.model.signals import Kind, Metric
from retina_otel.pipeline.points import PointBlock, Temporality

TARGET_INFO = "target_info"

Rows = npt.NDArray[np.intp]


@dataclass(slots=True)
class Family:
    """Blocks that share a name. `metric` is the first of them: it gives type, unit and help."""

    name: str
    """The name of its samples, a counter's with `_total` where the strategy adds that."""
    metric: Metric
    blocks: list[PointBlock] = field(default_factory=list)

    @property
    def stem(self) -> str:
        """The name as OpenMetrics calls the family."""
        counter = self.metric.kind is Kind.COUNTER
        return self.name.removesuffix("_total") if counter else self.name

    @property
    def names(self) -> tuple[str, ...]:
        """Every name that it takes in one format or another."""
        suffixes: tuple[str, ...] = ()
        if self.metric.kind is Kind.HISTOGRAM:
            suffixes = ("_bucket", "_count", "_sum", "_created")
        elif self.stem != self.name:
            suffixes = ("_total", "_created")
        return tuple(self.stem + suffix for suffix in ("", *suffixes))


class Families:
    """Sorts points into families. Keeps bytes of labels only; one thread at a time."""

    def __init__(self, resource: Mapping[str, AttributeValue], naming: Naming, blob: Blob) -> None:
        names = LabelNames()

        def make(sets: AttributeSets) -> LabelTable:
            return LabelTable(sets, naming, blob, names)

        self.target = named_labels(sorted_set(resource), naming)
        """Labels of `target_info`; empty: there is none."""
        self.conflicts: dict[str, str] = {}
        """Metrics that the last page left out, and why: another has the name."""
        self.duplicates = 0
        """Points that the last page left out: a newer one has equal labels."""
        self._naming = naming
        self._tables = SetCache(make)

    def of(self, blocks: Iterable[PointBlock]) -> list[Family]:
        """Families without those that have no row. Blocks must be cumulative; ValueError if not."""
        self.conflicts = {}
        self.duplicates = 0
        owners: dict[str, Family | None] = {"target": None, TARGET_INFO: None}
        families = []
        for metric, temporality, same in by_metric(blocks):
            cumulative = temporality is Temporality.CUMULATIVE or metric.kind is Kind.GAUGE
            if not cumulative:
                raise ValueError(f"{metric.name}: a scrape has no delta temporality")
            made = Family(self._naming.metric(metric), metric, same)
            if not made.name:
                self.conflicts[metric.name] = "no character of its name can stand in Prometheus"
                continue
            taken = [name for name in made.names if name in owners]
            owner = owners.get(made.name)
            if owner and self._alike(owner, made):
                owner.blocks += same
            elif taken:
                self.conflicts[metric.name] = f"{taken[0]} is already another metric"
            else:
                families.append(made)
                owners.update(dict.fromkeys(made.names, made))
        return [family for family in families if not all(b.no_value.all() for b in family.blocks)]

    def _alike(self, one: Family, other: Family) -> bool:
        """Whether they can be one family: a name without a suffix does not tell the unit."""
        units = self._naming.strategy.adds_suffixes or one.metric.unit == other.metric.unit
        return units and (one.name, type_of(one.metric)) == (other.name, type_of(other.metric))

    def rows(self, family: Family) -> Iterator[tuple[PointBlock, Rows]]:
        """The rows of each block to write: not ended, and of equal labels only the newest."""
        kept = [np.flatnonzero(~block.no_value) for block in family.blocks]
        keys = [self._keys(block, rows) for block, rows in zip(family.blocks, kept, strict=True)]
        every = np.concatenate(keys)
        values, counts = np.unique(every, return_counts=True)
        if len(values) < len(every):
            suspects = values[counts > 1]
            newest: dict[frozenset[tuple[str, str]], tuple[int, int, int]] = {}
            keeps = [np.ones(len(rows), bool) for rows in kept]
            for place, block in enumerate(family.blocks):
                for index in np.flatnonzero(np.isin(keys[place], suspects)).tolist():
                    row = int(kept[place][index])
                    same = self._labels_of(block, row)
                    this = (int(block.time_ns[row]), place, index)
                    other = newest.get(same)
                    newest[same] = this if other is None else max(this, other)
                    if other is not None:
                        _, loser_place, loser_index = min(this, other)
                        keeps[loser_place][loser_index] = False
                        self.duplicates += 1
            kept = [rows[keep] for rows, keep in zip(kept, keeps, strict=True)]
        yield from zip(family.blocks, kept, strict=True)

    def parts(
        self, block: PointBlock, rows: Rows
    ) -> tuple[list[npt.NDArray[np.object_]], npt.NDArray[np.int64]]:
        """Bytes of the labels of these rows, in parts, and how many each row has in all."""
        columns = [ids[rows] for ids in (block.source, block.destination, block.own)]
        used = [ids for ids in columns if ids.any()] or [columns[-1]]
        return self._tables.table(block.sets).parts(*used)

    def _keys(self, block: PointBlock, rows: Rows) -> npt.NDArray[np.uint64]:
        columns = [ids[rows] for ids in (block.source, block.destination, block.own)]
        keys = self._tables.table(block.sets).keys(*columns)
        return keys + np.uint64(hash(block.metric.scope) & 2**64 - 1)

    def _labels_of(self, block: PointBlock, row: int) -> frozenset[tuple[str, str]]:
        ids = (block.source[row], block.destination[row], block.own[row])
        pairs = [pair for number in ids for pair in block.sets.get(int(number))]
        own = named_labels(tuple(pairs), self._naming)
        return frozenset({**own, **scope_labels(block.metric.scope)}.items())


def scope_labels(scope: str) -> dict[str, str]:
    """Labels that tell of which instrumentation scope a point is; Retina's metrics have none."""
    if scope == CLASSIC_SCOPE:
        return {}
    version, _ = scope_identity(scope)
    pairs = {"otel_scope_name": scope}
    if version:
        pairs["otel_scope_version"] = version
    return pairs


def type_of(metric: Metric) -> str:
    """The metric's type as the text formats say it."""
    return {Kind.COUNTER: "counter", Kind.HISTOGRAM: "histogram"}.get(metric.kind, "gauge")
