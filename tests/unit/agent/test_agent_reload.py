"""A reload replaces what has changed, keeps what has not, and never loses a count."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from retina_otel.agent.agent import Agent
from retina_otel.component import ComponentKind, Context, State
from retina_otel.errors import ConfigError
from tests.unit.agent.agent_parts import Keep, Parts, configuration, until


@pytest.fixture
def parts() -> Parts:
    return Parts()


@pytest.fixture
def agent(parts: Parts) -> Iterator[Agent]:
    agent = Agent(
        configuration(parts.receiver("red", [2, 3]), parts.receiver("blue", [5]), parts.exporter()),
        {},
    )
    agent.start()
    until(lambda: _sum(parts) == 10, "all counts")
    yield agent
    agent.request_stop()
    agent.join(10)


def _sum(parts: Parts) -> int:
    parts.exporters["keep"].take()
    return parts.story.sums.get("keep", 0)


def test_unchanged_components_keep_running_and_series_go_on(parts: Parts, agent: Agent) -> None:
    starts = set(parts.story.starts["keep"])
    agent.reload(
        configuration(
            parts.receiver("red", [2, 3]),
            parts.receiver("blue", [5]),
            parts.exporter(label="changed"),
        )
    )
    until(lambda: "keep stopped at 10" in parts.story.lines, "the exchange of the exporter")
    until(lambda: parts.story.lines.count("keep started") == 2, "the new exporter")
    assert agent.stop()
    assert parts.story.lines.count("red started") == 1
    assert parts.story.lines.count("blue started") == 1
    assert parts.story.sums["keep"] == 10
    assert parts.story.starts["keep"] == starts


def test_changed_receiver_is_replaced_and_its_counts_add_up(parts: Parts, agent: Agent) -> None:
    agent.reload(
        configuration(
            parts.receiver("red", [2, 3]), parts.receiver("blue", [7, 11]), parts.exporter()
        )
    )
    until(lambda: parts.story.lines.count("blue started") == 2, "the new receiver")
    until(lambda: _sum(parts) == 28, "its counts")
    assert agent.stop()
    # The pipeline is the same, so the exporter did not even notice.
    assert parts.story.lines.count("keep started") == 1
    assert parts.story.lines.index("blue stopped with 0 left") < len(parts.story.lines) - 3


def test_removed_receiver_stops_and_what_it_counted_is_sent(parts: Parts, agent: Agent) -> None:
    agent.reload(configuration(parts.receiver("red", [2, 3]), parts.exporter()))
    until(lambda: "blue stopped with 0 left" in parts.story.lines, "its end")
    until(lambda: parts.story.lines.count("keep started") == 2, "the exporter's new pipeline")
    assert [one.id for one in agent.status().components] == ["red", "keep"]
    assert "keep stopped at 10" in parts.story.lines


def test_component_that_refuses_its_settings_leaves_the_old_configuration(
    parts: Parts, agent: Agent
) -> None:
    def refuse(context: Context) -> object:
        raise ConfigError("no such thing", "Choose another.")

    before = list(parts.story.lines)
    keep = parts.exporters["keep"]
    agent.reload(
        configuration(
            parts.receiver("red", [13]),
            parts.exporter(),
            parts.other(ComponentKind.EXPORTER, "refuses", refuse),
        )
    )
    until(lambda: _reloads(parts, keep) == {"applied": 0.0, "refused": 1.0}, "the metric")
    assert parts.story.lines == before
    assert {one.id for one in agent.status().components} == {"red", "blue", "keep"}
    assert agent.status().ready


def test_invalid_file_is_one_error_and_one_metric(
    parts: Parts, agent: Agent, caplog: pytest.LogCaptureFixture
) -> None:
    agent.refuse_reload(ConfigError("unknown key", "Did you mean 'x'?", path="service.y"))
    until(
        lambda: _reloads(parts, parts.exporters["keep"]) == {"applied": 0.0, "refused": 1.0},
        "the metric",
    )
    assert [record.getMessage() for record in caplog.records] == [
        "the old configuration goes on: service.y: unknown key. Did you mean 'x'?"
    ]


def test_exporter_that_cannot_start_after_a_reload_is_shown_and_others_go_on(
    parts: Parts, agent: Agent
) -> None:
    class Taken:
        def start(self, metrics: object, events: object) -> None:
            raise ConfigError("port is taken")

        def stop(self, deadline_ns: int) -> None: ...

    agent.reload(
        configuration(
            parts.receiver("red", [2, 3]),
            parts.receiver("blue", [5]),
            parts.exporter(),
            parts.other(ComponentKind.EXPORTER, "taken", Taken()),
        )
    )
    until(
        lambda: any(one.state is State.FAILED for one in agent.status().components), "the failure"
    )
    assert agent.status().ready
    assert agent.stop()
    assert parts.story.sums["keep"] == 10


def _reloads(parts: Parts, keep: Keep) -> dict[str, float]:
    keep.take()
    found = parts.story.own.get("retina.config.reloads", {})
    return {outcome: value for (outcome,), value in found.items()}
