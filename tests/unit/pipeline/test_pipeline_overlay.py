"""An overlay changes what is reported of some metrics: nothing is lost or counted twice by it, and
other metrics notice nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest

from retina_otel.model.batches import Column, MetricBatch, Window
from retina_otel.model.signals import Attribute, Ends, Kind, Metric
from retina_otel.pipeline.accumulator import Accumulator, AccumulatorSettings
from retina_otel.pipeline.identity.endpoints import Endpoint, EndpointKind, EndpointTable
from retina_otel.pipeline.overlay import Overlay
from retina_otel.pipeline.points import Temporality

SECOND = 1_000_000_000
T0 = 1_700_000_000 * SECOND
OWN = (Attribute("direction", "string", ""),)
IO = Metric("test.io", Kind.COUNTER, "By", "", OWN, Ends.BOTH)
PACKETS = Metric("test.packets", Kind.COUNTER, "{packet}", "", OWN, Ends.BOTH)

Series = tuple[tuple[str, object], ...]
DIRECTION = ("direction", "egress")
WEB = (("source.k8s.namespace.name", "shop"), ("source.k8s.pod.name", "web"))
API = (("destination.k8s.namespace.name", "shop"), ("destination.k8s.pod.name", "api"))
BOTH: Series = tuple(sorted((DIRECTION, *WEB, *API)))
BY_POD: Series = tuple(sorted((DIRECTION, WEB[1])))


class Backend:
    """Believes what a backend may: points of a series grow, its end is marked, sums are of
    increases since its start."""

    def __init__(self, accumulator: Accumulator, temporality: Temporality) -> None:
        self.reader = accumulator.reader("backend", temporality=temporality)
        self.delta = temporality is Temporality.DELTA
        self.known: dict[tuple[str, Series], tuple[int, int]] = {}
        """Start and value."""
        self.live: set[tuple[str, Series]] = set()
        """What has not ended."""
        self.sums: dict[str, int] = {}

    def take(self) -> None:
        export = self.reader.take()
        assert export is not None
        seen: set[tuple[str, Series, int]] = set()
        for block in export.blocks:
            for i in range(len(block.source)):
                sets = [ids[i] for ids in (block.source, block.destination, block.own)]
                attributes = [pair for number in sets for pair in block.sets.get(int(number))]
                name, series = block.metric.name, tuple(sorted(attributes))
                point = (name, series, int(block.time_ns[i]))
                assert point not in seen, "two points of one series at one time"
                seen.add(point)
                if block.no_value[i]:
                    self.live.discard((name, series))
                else:
                    assert isinstance(block.values, np.ndarray)
                    self._count(name, series, int(block.start_ns[i]), int(block.values[i]))
        self.reader.acknowledge(export)

    def _count(self, name: str, series: Series, start_ns: int, value: int) -> None:
        start, before = self.known.get((name, series), (start_ns, 0))
        if self.delta or start != start_ns:
            before = 0
        assert value >= before
        self.known[name, series] = (start_ns, value)
        self.live.add((name, series))
        self.sums[name] = self.sums.get(name, 0) + value - before

    def shown(self, metric: Metric) -> set[Series]:
        return {series for name, series in self.live if name == metric.name}

    def starts(self, metric: Metric) -> set[int]:
        return {self.known[one][0] for one in self.live if one[0] == metric.name}


class Scene:
    """web sends to api, a second a tick."""

    def __init__(self, temporality: Temporality = Temporality.CUMULATIVE, **settings: int) -> None:
        self.endpoints = EndpointTable()
        self.run("web", "api")
        self.accumulator = Accumulator(self.endpoints, AccumulatorSettings(**settings))
        self.backend = Backend(self.accumulator, temporality)
        self.seconds = 0
        self.sent = 0

    def run(self, *pods: str) -> None:
        """These are the pods behind interfaces 1 and 2 from now on."""
        self.endpoints.update(
            Endpoint(
                EndpointKind.POD,
                name,
                {"k8s.pod.name": name, "k8s.namespace.name": "shop"},
                interfaces=(number,),
            )
            for number, name in enumerate(pods, start=1)
        )

    def tick(self, sent: int = 0, *, take: bool = True, back: bool = False) -> None:
        """`back`: api answers as much."""
        rows = self.endpoints.resolve_interface(np.array([1, 2], np.uint32))
        n = 2 if back else 1
        if sent:
            window = Window(T0 + self.seconds * SECOND, T0 + (self.seconds + 1) * SECOND)
            self.accumulator.add(
                MetricBatch(
                    window,
                    {IO: np.full(n, 100 * sent), PACKETS: np.full(n, sent)},
                    {"direction": Column(np.zeros(n, np.int32), ["egress"])},
                    source_rows=rows[:n],
                    destination_rows=rows[::-1][:n],
                )
            )
            self.sent += n * sent
        self.seconds += 1
        self.accumulator.snapshot(T0 + self.seconds * SECOND)
        if take:
            self.backend.take()

    def sums(self) -> Mapping[str, int]:
        return self.backend.sums

    def row(self, interface: int) -> np.ndarray:
        return self.endpoints.resolve_interface(np.array([interface], np.uint32))


def chosen(metric: Metric, *attributes: str) -> Overlay:
    return Overlay(attributes={metric.name: attributes})


POD = ("direction", "source.k8s.pod.name")


@pytest.mark.parametrize("temporality", list(Temporality))
@pytest.mark.parametrize("take", [True, False])
def test_other_attributes_of_one_metric_lose_nothing_and_leave_the_other_alone(
    temporality: Temporality, take: bool
) -> None:
    scene = Scene(temporality)
    scene.tick(7)
    started = scene.backend.starts(PACKETS)
    scene.tick(11, take=take)
    scene.accumulator.lay_over(chosen(IO, *POD))
    scene.tick(13, take=take)
    scene.accumulator.lay_over(Overlay())
    scene.tick(17, take=take)
    scene.accumulator.lay_over(chosen(IO, *POD))
    for sent in (19, 23, 29):
        scene.tick(sent)
    assert scene.backend.shown(PACKETS) == {BOTH}
    assert scene.sums() == {"test.io": 100 * scene.sent, "test.packets": scene.sent}
    if temporality is Temporality.CUMULATIVE:
        assert scene.backend.shown(IO) == {BY_POD}
        assert scene.backend.starts(PACKETS) == started
    for totals in scene.accumulator.totals().values():
        assert totals.live + totals.retired + totals.overflow == totals.total


def test_an_excluded_metric_ends_and_counts_from_then_on_when_it_comes_back() -> None:
    scene = Scene()
    scene.tick(7)
    scene.accumulator.lay_over(Overlay(exclude=frozenset({IO.name})))
    for sent in (11, 13, 17):
        scene.tick(sent)
    assert scene.backend.shown(IO) == set()
    assert scene.sums() == {"test.io": 700, "test.packets": 48}
    scene.accumulator.lay_over(Overlay())
    scene.tick(19)
    assert scene.backend.shown(IO) == {BOTH}
    assert scene.sums() == {"test.io": 700 + 1900, "test.packets": 67}


def test_a_metric_that_is_excluded_before_it_was_ever_reported_is_not() -> None:
    scene = Scene()
    scene.accumulator.lay_over(Overlay(exclude=frozenset({IO.name})))
    scene.tick(7)
    assert scene.sums() == {"test.packets": 7}
    scene.accumulator.lay_over(Overlay())
    scene.tick(11)
    assert scene.sums() == {"test.io": 1100, "test.packets": 18}


def test_overflow_of_an_excluded_metric_is_not_shown() -> None:
    scene = Scene(cardinality_limit=1)
    scene.tick(7, back=True)
    assert (("otel.metric.overflow", True),) in scene.backend.shown(IO)
    scene.accumulator.lay_over(Overlay(exclude=frozenset({IO.name, PACKETS.name})))
    taken = scene.backend.sums.copy()
    scene.tick(11, back=True)
    scene.backend.live.clear()
    scene.tick()
    assert scene.backend.live == set()
    assert scene.sums() == taken
    scene.accumulator.lay_over(Overlay())
    scene.tick(13, back=True)
    assert scene.sums() == {"test.io": 1400 + 2600, "test.packets": 14 + 26}


@pytest.mark.parametrize(
    ("expiry", "left"), [(3.0, {"test.packets"}), (math.inf, {"test.io", "test.packets"})]
)
def test_a_metric_has_its_own_expiry(expiry: float, left: set[str]) -> None:
    scene = Scene(idle_ns=60 * SECOND)
    scene.tick(7)
    scene.accumulator.lay_over(Overlay(expiry={IO.name: expiry}))
    scene.tick(11)
    for _ in range(6):
        scene.tick()
    assert {name for name, _ in scene.backend.live} == left
    for _ in range(60):
        scene.tick()
    assert {name for name, _ in scene.backend.live} == left - {"test.packets"}


def test_the_same_overlay_again_changes_nothing() -> None:
    scene = Scene()
    scene.accumulator.lay_over(chosen(IO, *POD))
    scene.tick(7)
    starts = scene.backend.starts(IO)
    for _ in range(3):
        scene.accumulator.lay_over(chosen(IO, *POD))
        scene.tick(11)
    assert scene.backend.starts(IO) == starts


def test_changing_to_and_fro_keeps_no_sets_for_ever() -> None:
    scene = Scene()
    sizes = []
    for number in range(400):
        scene.run(f"web{number}", f"api{number}")
        scene.accumulator.lay_over(chosen(IO, f"source.k8s.{number}*", *POD))
        scene.tick(1)
        sizes.append(len(scene.accumulator.sets))
    assert sizes[399] == sizes[199]
    assert scene.sums() == {"test.io": 100 * scene.sent, "test.packets": scene.sent}


def test_series_of_an_endpoint_in_doubt_end_unless_something_is_added() -> None:
    scene = Scene()
    scene.tick(7)
    scene.accumulator.doubt(scene.row(1))
    scene.tick(11)
    assert scene.backend.shown(IO) == {BOTH}
    scene.accumulator.doubt(scene.row(1))
    scene.tick()
    scene.tick()
    assert scene.backend.live == set()
    scene.tick(13)
    assert scene.sums() == {"test.io": 100 * scene.sent, "test.packets": scene.sent}


def test_of_several_overlays_the_last_that_speaks_of_a_metric_counts() -> None:
    first = Overlay({"a": ("x",), "b": ("x",)}, {"a": 1.0}, frozenset({"c"}))
    second = Overlay({"b": ("y",), "c": ("y",)}, {"a": 2.0}, frozenset({"d"}))
    assert Overlay.of_all([first, second]) == Overlay(
        {"a": ("x",), "b": ("y",), "c": ("y",)}, {"a": 2.0}, frozenset({"d"})
    )
    assert Overlay.of_all([]) == Overlay()
