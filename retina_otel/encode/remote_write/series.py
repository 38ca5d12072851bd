"""Points as series of remote write: named, labelled, each once; what both versions write.

A run is up to some thousand points whose labels stand in the same order. Of points with equal
labels only the newest is kept, and a name belongs to one metric: anything else a receiver would
refuse.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from retina_otel.encode.grouping import by_metric
from retina_otel.encode.prometheus.names import (
    DEFAULT_STRATEGY,
    TranslationStrategy,
    metric_name,
    unit_word,
)
from retina_otel.encode.remote_write.histograms import Buckets
from retina_otel.encode.remote_write.labels import (
    LE,
    NAME,
    LabelColumn,
    Labels,
    Layout,
    NameSets,
    ResourceLabels,
    bound,
    layout,
)
from retina_otel.encode.scopes import scope_identity
from retina_otel.encode.set_cache import SetCache
from retina_otel.model.attribute_sets import AttributeSets
from retina_otel.model.batches import AttributeValue, Histogram
from retina_otel.model.signals import Kind, Metric
from retina_otel.pipeline.points import PointBlock, Temporality

STALE = np.uint64(0x7FF0000000000002)
"""Bits of the NaN that ends a series."""
_NOT_A_NUMBER = np.uint64(0x7FF8000000000001)
_SERIES_OF_A_RUN = 8192
_MS = 1_000_000

PROMOTED = ("k8s.cluster.name", "k8s.node.name")
"""Resource attributes that are labels of every series unless the settings say otherwise."""

_TYPE = {Kind.COUNTER: 1, Kind.UPDOWN: 2, Kind.GAUGE: 2, Kind.HISTOGRAM: 3}
_GAUGE = 2


@dataclass(frozen=True, slots=True)
class Family:
    """What is said about a metric; `type` is the number that both versions have for it."""

    name: str
    type: int
    unit: str
    help: str


TARGET_INFO = Family("target_info", _GAUGE, "", "Target metadata")


@dataclass(frozen=True, slots=True)
class Samples:
    """One series for each point of a run: where labels stand, those of the metric, the values."""

    layout: Layout
    fixed: Mapping[str, str]
    values: npt.NDArray[np.float64]
    buckets: Buckets | None = None
    """Of native histograms, whose sums are the values."""


@dataclass(frozen=True, slots=True)
class Run:
    """n points; each is one sample of every element of `samples`, at one time."""

    family: Family
    samples: list[Samples]
    columns: tuple[LabelColumn, ...]
    ids: tuple[npt.NDArray[np.int32], ...]
    """Set of each point, by column."""
    time_ms: npt.NDArray[np.int64]
    start_ms: npt.NDArray[np.int64] | None
    """None where the kind of metric has no start."""

    def __len__(self) -> int:
        return len(self.time_ms)


@dataclass(frozen=True, slots=True)
class SeriesOptions:
    """What decides, beside the points, which series they are."""

    resource: Mapping[str, AttributeValue]
    promoted: tuple[str, ...] = PROMOTED
    external_labels: Mapping[str, str] = field(default_factory=dict)
    strategy: TranslationStrategy = DEFAULT_STRATEGY
    target_info: bool = True
    """Tell about the resource by a series of its own."""
    native_histograms: bool = False
    """One series for a histogram, not one for each bucket. Version 2.0 only."""


class SeriesMaker:
    """Points to runs. Keeps what it knows of attribute sets; one thread at a time."""

    def __init__(self, options: SeriesOptions) -> None:
        self._options = options
        self._resource = ResourceLabels.of(
            options.resource, options.promoted, options.external_labels, options.strategy
        )
        self._names = NameSets()
        self._layouts: dict[tuple[tuple[int, ...], tuple[str, ...]], Layout | None] = {}
        self._ends = SetCache(
            lambda sets: LabelColumn(
                sets, options.strategy, self._names, hidden=self._resource.wins.keys()
            )
        )
        self._own = SetCache(
            lambda sets: LabelColumn(sets, options.strategy, self._names, self._resource)
        )
        self.conflicts: dict[str, str] = {}
        """Metrics that the last export left out, and why: another has the name."""
        self.duplicates = 0
        """Points that the last export left out: a newer one has equal labels."""

    def target_info(self, families: list[tuple[Family, list[PointBlock]]]) -> tuple[Labels, int]:
        """Its labels and time in ms, that of the newest point; no labels where there is none."""
        if not families or not self._options.target_info:
            return (), 0
        newest = max(int(block.time_ns.max()) for _, blocks in families for block in blocks)
        return self._resource.target_info, newest // _MS

    def families(self, blocks: Iterable[PointBlock]) -> list[tuple[Family, list[PointBlock]]]:
        """Blocks by name. Metrics of one name and type are one family. Blocks must be cumulative;
        ValueError if one is not."""
        self.conflicts = {}
        self.duplicates = 0
        owners = {TARGET_INFO.name: TARGET_INFO}
        families: dict[str, tuple[Family, list[PointBlock]]] = {}
        for metric, temporality, same in by_metric(blocks):
            if temporality is not Temporality.CUMULATIVE and metric.kind is not Kind.GAUGE:
                raise ValueError(f"{metric.name}: remote write has no delta temporality")
            family = _family(metric, self._options.strategy)
            if not family.name:
                self.conflicts[metric.name] = "no character of its name can stand in Prometheus"
                continue
            names = _sample_names(metric, family)
            known = families.get(family.name)
            if known is not None and known[0].type == family.type:
                known[1].extend(same)
            elif taken := [name for name in names if name in owners]:
                self.conflicts[metric.name] = f"{taken[0]} is already another metric"
            else:
                owners.update(dict.fromkeys(names, family))
                families[family.name] = family, list(same)
        return list(families.values())

    def runs(self, family: Family, blocks: list[PointBlock]) -> Iterator[Run]:
        for block in self._unique(blocks):
            step = _SERIES_OF_A_RUN
            if block.metric.kind is Kind.HISTOGRAM and not self._options.native_histograms:
                step = max(1, step // (len(block.metric.boundaries) + 3))
            for low in range(0, len(block.source), step):
                some = block
                if len(block.source) > step:
                    some = block.at(np.arange(low, min(low + step, len(block.source))))
                yield from self._laid_out(family, some, self._tables(block.sets))

    def _tables(self, sets: AttributeSets) -> tuple[LabelColumn, ...]:
        ends = self._ends.table(sets)
        return ends, ends, self._own.table(sets)

    def _unique(self, blocks: list[PointBlock]) -> Iterator[PointBlock]:
        """The points that are told: of equal labels only the newest."""
        keys = [self._keys(block) for block in blocks]
        every = np.sort(np.concatenate(keys))
        equal = every[1:][every[1:] == every[:-1]]
        shared = _shared(blocks, keys, equal) if len(equal) else equal
        if len(shared):
            blocks = self._newest(blocks, keys, shared)
        yield from (block for block in blocks if len(block.source))

    def _newest(
        self,
        blocks: list[PointBlock],
        keys: list[npt.NDArray[np.uint64]],
        suspects: npt.NDArray[np.uint64],
    ) -> list[PointBlock]:
        """Blocks without the points whose labels another series has too, told more lately."""
        keeps = [np.ones(len(block.source), bool) for block in blocks]
        newest: dict[tuple[str, Labels], tuple[int, int, int]] = {}
        for number, block in enumerate(blocks):
            for row in np.flatnonzero(np.isin(keys[number], suspects)).tolist():
                text = self._labels_of(block, row)
                this = (int(block.time_ns[row]), number, row)
                other = newest.get(text)
                newest[text] = this if other is None else max(this, other)
                if other is not None:
                    _, loser, loser_row = min(this, other)
                    keeps[loser][loser_row] = False
                    self.duplicates += 1
        return [
            block if keep.all() else block.at(np.flatnonzero(keep))
            for block, keep in zip(blocks, keeps, strict=True)
        ]

    def _keys(self, block: PointBlock) -> npt.NDArray[np.uint64]:
        """A number for each point that is equal where its labels are equal, and rarely else."""
        out = np.full(len(block.source), hash(block.metric.scope) & 2**64 - 1, np.uint64)
        ids = (block.source, block.destination, block.own)
        for table, column in zip(self._tables(block.sets), ids, strict=True):
            table.index.refresh(column)
            out += table.index.hashes[column]
        return out

    def _labels_of(self, block: PointBlock, row: int) -> tuple[str, Labels]:
        columns = (block.source, block.destination, block.own)
        pairs = [pair for column in columns for pair in block.sets.get(int(column[row]))]
        return block.metric.scope, self._tables(block.sets)[-1].labels_of(tuple(pairs))

    def _laid_out(
        self, family: Family, block: PointBlock, tables: tuple[LabelColumn, ...]
    ) -> Iterator[Run]:
        """The points by layout; those of one series stay in order."""
        ids = (block.source, block.destination, block.own)
        width = len(self._names)
        combined = np.zeros(len(block.source), np.int64)
        for table, column in zip(tables, ids, strict=True):
            combined = combined * width + table.index.names[column]
        combinations = [int(combined[0])]
        if (combined != combined[0]).any():
            combinations = sorted(set(combined.tolist()))
        for number in combinations:
            some = block
            if len(combinations) > 1:
                some = block.at(np.flatnonzero(combined == number))
            held = (number // width**2, number // width % width, number % width)
            run = self._run(family, some, tables, held)
            yield from self._joined(family, some) if run is None else [run]

    def _joined(self, family: Family, block: PointBlock) -> Iterator[Run]:
        """Runs of points in which attributes of two sets are one label: each point gets one set,
        with all of its attributes."""
        sets = AttributeSets()
        columns = (block.source, block.destination, block.own)
        joined = [
            sets.intern(tuple(sorted(itertools.chain(*map(block.sets.get, ids)), key=_key)))
            for ids in zip(*(column.tolist() for column in columns), strict=True)
        ]
        none = np.zeros(len(joined), np.int32)
        block = replace(
            block, source=none, destination=none, own=np.array(joined, np.int32), sets=sets
        )
        ends = LabelColumn(sets, self._options.strategy, self._names)
        own = LabelColumn(sets, self._options.strategy, self._names, self._resource)
        ends.index.refresh(none)
        own.index.refresh(block.own)
        yield from self._laid_out(family, block, (ends, ends, own))

    def _run(
        self,
        family: Family,
        block: PointBlock,
        tables: tuple[LabelColumn, ...],
        held: tuple[int, ...],
    ) -> Run | None:
        """The points as a run; None if attributes of two of their sets are one label."""
        scope = _scope_labels(block.metric.scope)
        samples = []
        for suffix, le, values, buckets in _series_of(block, self._options.native_histograms):
            fixed = {**scope, NAME: family.name + suffix, **le}
            place = (held, tuple(fixed))
            if place not in self._layouts:
                names = tuple(self._names[number] for number in held)
                self._layouts[place] = layout(names, tuple(fixed))
            found = self._layouts[place]
            if found is None:
                return None
            samples.append(Samples(found, fixed, values, buckets))
        return Run(
            family,
            samples,
            tables,
            (block.source, block.destination, block.own),
            block.time_ns // _MS,
            None if _TYPE[block.metric.kind] == _GAUGE else block.start_ns // _MS,
        )


def _shared(
    blocks: list[PointBlock],
    keys: list[npt.NDArray[np.uint64]],
    suspects: npt.NDArray[np.uint64],
) -> npt.NDArray[np.uint64]:
    """Of keys that come more than once, those of several series: a point of value 0 and the first
    of its own series have the same sets, and both stay."""
    rows = [np.flatnonzero(np.isin(each, suspects)) for each in keys]
    found = np.concatenate([each[some] for each, some in zip(keys, rows, strict=True)])
    identities = np.concatenate(
        [
            (
                np.full(len(some), id(block.sets)),
                np.full(len(some), hash(block.metric.name)),
                block.source[some],
                block.destination[some],
                block.own[some],
            )
            for block, some in zip(blocks, rows, strict=True)
        ],
        axis=1,
    )
    order = np.argsort(found)
    found, identities = found[order], identities[:, order]
    differ = (identities[:, 1:] != identities[:, :-1]).any(axis=0)
    return np.unique(found[1:][differ & (found[1:] == found[:-1])])


def _series_of(
    block: PointBlock, native: bool
) -> Iterator[tuple[str, dict[str, str], npt.NDArray[np.float64], Buckets | None]]:
    """Suffix of the name, `le` label, values and buckets of each series that a point is."""
    values, ended = block.values, block.no_value
    if not isinstance(values, Histogram):
        yield "", {}, _doubles(values, ended), None
        return
    boundaries = block.metric.boundaries
    if native:
        counts = np.where(ended[:, None], 0, values.counts) if ended.any() else values.counts
        yield "", {}, _doubles(values.sums, ended), Buckets(boundaries, counts)
        return
    counts = np.cumsum(values.counts, axis=1)
    for place, upper in enumerate((*boundaries, np.inf)):
        yield "_bucket", {LE: bound(upper)}, _doubles(counts[:, place], ended), None
    yield "_count", {}, _doubles(counts[:, -1], ended), None
    yield "_sum", {}, _doubles(values.sums, ended), None


def _doubles(
    values: npt.NDArray[np.int64] | npt.NDArray[np.float64], ended: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    out = values.astype(np.float64)
    if values.dtype.kind == "f":
        out.view(np.uint64)[np.isnan(out)] = _NOT_A_NUMBER
    if ended.any():
        out.view(np.uint64)[ended] = STALE
    return out


def _family(metric: Metric, strategy: TranslationStrategy) -> Family:
    name = metric_name(metric.name, metric.unit, metric.kind, strategy)
    unit = "" if metric.unit == "1" else unit_word(metric.unit, metric.kind)
    return Family(name, _TYPE[metric.kind], unit, metric.brief)


def _sample_names(metric: Metric, family: Family) -> list[str]:
    """The family's own name first: no other type may have it. Those of buckets are taken by native
    histograms too, since a backend of version 1.0 is given buckets."""
    suffixes = ("_bucket", "_count", "_sum") if metric.kind is Kind.HISTOGRAM else ()
    return [family.name, *(family.name + suffix for suffix in suffixes)]


@functools.lru_cache(maxsize=256)
def _scope_labels(scope: str) -> Mapping[str, str]:
    version, _ = scope_identity(scope)
    pairs = {"otel_scope_name": scope, "otel_scope_version": version}
    return {name: text for name, text in pairs.items() if text}


def _key(pair: tuple[str, AttributeValue]) -> str:
    return pair[0]
