"""What an extension wants reported lies over the configuration: across reloads, until it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from retina_otel.agent.agent import Agent
from retina_otel.agent.overlays import Overlays
from retina_otel.agent.routes import Route, RouteKey
from retina_otel.component import ComponentKind, Context, Overlay
from retina_otel.config.load import Instance
from retina_otel.model.batches import EventBatch, MetricBatch, Window
from retina_otel.model.signals import Ends, Kind, Metric
from retina_otel.pipeline.accumulator import Accumulator
from retina_otel.pipeline.identity.endpoints import Endpoint, EndpointKind, EndpointTable
from retina_otel.pipeline.pipeline import MetricsPipeline
from tests.unit.agent.agent_parts import COUNTED, Parts, configuration, ticks, until

ABSENT = Overlay(exclude=frozenset({COUNTED.name}))


class Wanting:
    """An extension that wants something from its start on."""

    def __init__(self, context: Context, wanted: Overlay) -> None:
        self._context, self._wanted = context, wanted

    def start(self) -> None:
        self._context.overlay(self._wanted)

    def stop(self) -> None: ...


class AsItIs:
    """Stands where identity stands."""

    def process_metrics(self, batch: MetricBatch) -> MetricBatch:
        return batch

    def process_events(self, batch: EventBatch) -> EventBatch:
        return batch


@pytest.fixture
def parts() -> Parts:
    return Parts()


@pytest.fixture
def run(parts: Parts) -> Iterator[Callable[..., Agent]]:
    agents: list[Agent] = []

    def run(*instances: Instance) -> Agent:
        agents.append(Agent(configuration(*instances), {}))
        agents[-1].start()
        return agents[-1]

    yield run
    for agent in agents:
        agent.request_stop()
        agent.join(10)


def counted(parts: Parts) -> int:
    parts.exporters["keep"].take()
    return parts.story.sums.get("keep", 0)


def wanting(parts: Parts, wanted: Overlay) -> Instance:
    return parts.other(ComponentKind.EXTENSION, "wants", lambda context: Wanting(context, wanted))


def identity(parts: Parts, id_: str = "identity") -> Instance:
    return parts.other(ComponentKind.PROCESSOR, id_, AsItIs())


def test_an_overlay_survives_reloads_and_ends_with_its_extension(
    parts: Parts, run: Callable[..., Agent]
) -> None:
    processor, extension = identity(parts), wanting(parts, ABSENT)
    agent = run(parts.receiver("red", [2, 3]), parts.exporter(), processor, extension)
    ticks(agent, 4)
    assert counted(parts) == 0
    agent.reload(
        configuration(parts.receiver("red", [5, 7]), parts.exporter(), processor, extension)
    )
    until(lambda: parts.story.lines.count("red started") == 2, "the reload")
    ticks(agent, 4)
    assert counted(parts) == 0
    agent.reload(configuration(parts.receiver("red", [11, 13]), parts.exporter(), processor))
    until(lambda: counted(parts) == 24, "counts without the extension")


def test_an_overlay_is_for_pipelines_that_know_ends(
    parts: Parts, run: Callable[..., Agent]
) -> None:
    run(
        parts.receiver("red", [2, 3]),
        parts.exporter(),
        identity(parts, "other"),
        wanting(parts, ABSENT),
    )
    until(lambda: counted(parts) == 5, "all counts")


IO = Metric("test.io", Kind.COUNTER, "By", "", (), Ends.BOTH)


def test_series_of_a_pod_that_is_no_longer_observed_end_with_the_next_window() -> None:
    table = EndpointTable()
    table.update(
        Endpoint(EndpointKind.POD, name, {"k8s.pod.name": name}, interfaces=interfaces)
        for name, interfaces in (("web", (1,)), ("api", (2,)), ("far", ()))
    )
    accumulator = Accumulator(table)
    pipeline = MetricsPipeline("metrics", [], accumulator)
    route = Route(RouteKey("metrics", frozenset(), ("identity",), ""), pipeline, [], [])
    overlays = Overlays(table)
    rows = table.resolve_interface(np.array([1, 2], np.uint32))
    second = 1_000_000_000

    def tick(end_s: int, sources: np.ndarray) -> int:
        overlays.apply([route])
        window = Window((end_s - 1) * second, end_s * second)
        values = {IO: np.full(len(sources), 7)}
        pipeline.push([MetricBatch(window, values, {}, source_rows=sources)])
        pipeline.tick(end_s * second)
        return accumulator.n_live

    assert tick(1, rows) == 2
    overlays.selection.set(observed=lambda endpoint: endpoint.key != "web")
    assert tick(2, rows[1:]) == 1
    # Nobody new is left out, so nothing else comes in doubt.
    overlays.selection.set(observed=lambda endpoint: endpoint.key not in ("web", "far"))
    assert tick(3, rows[:0]) == 1
    overlays.selection.set(observed=None)
    assert tick(4, rows) == 2
