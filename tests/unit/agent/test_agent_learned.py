"""What an extension learns goes on the resource of what is sent, and disturbs nothing else."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator

import numpy as np
import pytest

from retina_otel.agent.agent import Agent
from retina_otel.agent.resource import detect
from retina_otel.component import Component, ComponentKind, Context, Settings
from retina_otel.config.load import Instance
from tests.unit.agent.agent_parts import Keep, Parts, configuration, status_of, ticks, until


class Learner:
    """Learns when the test says so, or at once when it is started."""

    def __init__(self, context: Context, at_start: dict[str, str]) -> None:
        self.context = context
        self.at_start = at_start
        self.starts = 0
        self.stops = 0
        self.ticks: list[int] = []
        self.fault: Exception | None = None

    def start(self) -> None:
        self.starts += 1
        if self.at_start:
            self.context.learned(self.at_start)

    def stop(self) -> None:
        self.stops += 1

    def tick(self, end_ns: int) -> None:
        self.ticks.append(end_ns)
        if self.fault:
            raise self.fault


class World:
    def __init__(self, **at_start: str) -> None:
        self.parts = Parts()
        self.resources: list[dict[str, str | int | bool]] = []
        self.made: list[Learner] = []
        learner = Component(
            "learner",
            ComponentKind.EXTENSION,
            "development",
            Settings,
            lambda settings, context: self._learner(context, at_start),
        )
        keep = Component("keep", ComponentKind.EXPORTER, "development", Settings, self._keep)
        self.agent = Agent(
            configuration(
                self.parts.receiver("red", [2, 3, 5]),
                Instance("keep", keep, Settings()),
                Instance("learner", learner, Settings()),
            ),
            {"K8S_NODE_NAME": "node-a"},
        )

    def _learner(self, context: Context, at_start: dict[str, str]) -> Learner:
        self.made.append(Learner(context, at_start))
        return self.made[-1]

    def _keep(self, settings: Settings, context: Context) -> Keep:
        self.resources.append(context.resource)
        made = self.parts.exporters[context.id] = Keep(context.id, self.parts.story)
        return made

    def sum(self) -> int:
        self.parts.exporters["keep"].take()
        return self.parts.story.sums.get("keep", 0)

    def start(self) -> World:
        self.agent.start()
        until(lambda: self.sum() == 10, "all counts")
        return self


@pytest.fixture
def world() -> Iterator[World]:
    world = World().start()
    yield world
    world.agent.request_stop()
    world.agent.join(10)


def test_what_is_learned_reaches_exporters_and_restarts_no_extension(world: World) -> None:
    starts = set(world.parts.story.starts["keep"])
    assert "k8s.cluster.uid" not in world.resources[-1]
    world.made[0].context.learned({"k8s.cluster.uid": "c-1"})
    until(lambda: world.parts.story.lines.count("keep started") == 2, "the exporter's exchange")
    assert world.resources[-1]["k8s.cluster.uid"] == "c-1"
    assert world.sum() == 10
    assert world.parts.story.starts["keep"] == starts, "series went on"
    assert (len(world.made), world.made[0].starts, world.made[0].stops) == (1, 1, 0)
    assert world.parts.story.lines.count("red started") == 1


def test_learning_the_same_again_changes_nothing(world: World) -> None:
    for _ in range(3):
        world.made[0].context.learned({"k8s.node.uid": "n-1"})
    until(lambda: world.parts.story.lines.count("keep started") == 2, "the exporter's exchange")
    ticks(world.agent, 3)
    assert world.parts.story.lines.count("keep started") == 2


def test_instance_keeps_its_id_when_the_nodes_uid_comes_late(world: World) -> None:
    before = world.resources[-1]["service.instance.id"]
    world.made[0].context.learned({"k8s.node.uid": "n-1"})
    until(lambda: len(world.resources) == 2, "the new exporter")
    assert world.resources[-1]["k8s.node.uid"] == "n-1"
    assert world.resources[-1]["service.instance.id"] == before


def test_instance_id_is_made_of_the_nodes_uid_where_that_is_known_at_the_start() -> None:
    world = World(**{"k8s.node.uid": "n-1"}).start()
    until(lambda: "k8s.node.uid" in world.resources[-1], "the resource")
    world.agent.stop()
    expected = detect({"K8S_NODE_UID": "n-1"})["service.instance.id"]
    assert world.resources[-1]["service.instance.id"] == expected
    assert uuid.UUID(str(expected)).version == 5


def test_learned_attributes_give_way_to_what_the_environment_and_the_configuration_say() -> None:
    learned = {"k8s.node.name": "api", "cloud.region": "api", "k8s.cluster.uid": "api"}
    environment = {"K8S_NODE_NAME": "env", "OTEL_RESOURCE_ATTRIBUTES": "cloud.region=env"}
    resource = detect(environment, {"k8s.cluster.uid": "configured"}, learned=learned)
    assert resource["k8s.node.name"] == "env"
    assert resource["cloud.region"] == "env"
    assert resource["k8s.cluster.uid"] == "configured"


def test_extension_that_fails_at_a_tick_is_degraded_and_nothing_else_is(world: World) -> None:
    learner = world.made[0]
    until(lambda: len(learner.ticks) > 2, "ticks")
    assert learner.ticks == sorted(set(learner.ticks)), "one for each window"
    learner.fault = ValueError("boom")
    until(lambda: status_of(world.agent, "learner").failures > 1, "failures")
    assert status_of(world.agent, "learner").reason == "ValueError: boom"
    assert status_of(world.agent, "red").failures == 0


def test_the_nodes_own_row_says_what_was_learned(world: World) -> None:
    graph = world.agent._graph
    assert graph is not None
    table = graph.endpoints
    learned = {"k8s.node.uid": "n-1", "cloud.availability_zone": "z1", "host.type": "big"}
    world.made[0].context.learned(learned)
    until(lambda: world.parts.story.lines.count("keep started") == 2, "the exporter's exchange")
    ticks(world.agent, 1)
    (row,) = table.resolve_netns(np.array([os.stat("/proc/thread-self/ns/net").st_ino], np.uint32))
    assert dict(table.attributes(int(row))) == {
        "k8s.node.name": "node-a",
        "k8s.node.uid": "n-1",
        "k8s.resource.type": "node",
        "cloud.availability_zone": "z1",
    }
