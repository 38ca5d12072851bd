"""What the agent tells about itself: readiness, states, metrics of its own."""

from __future__ import annotations

from dataclasses import replace

from retina_otel.component import AgentStatus, ComponentKind, Context, State
from retina_otel.config.load import Configuration
from tests.unit.agent.agent_parts import (
    PRIMES,
    Count,
    CountSettings,
    Parts,
    Run,
    configuration,
    status_of,
    ticks,
)


def test_it_is_not_ready_before_everything_was_started(parts: Parts, run: Run) -> None:
    seen: list[tuple[bool, str]] = []

    class Health:
        def __init__(self, context: Context) -> None:
            self._status = context.status

        def start(self) -> None:
            seen.append((self._status().ready, self._status().reason))

        def stop(self) -> None: ...

    agent = run(
        configuration(
            parts.other(ComponentKind.EXTENSION, "health", Health),
            parts.receiver("red", PRIMES),
            parts.exporter(),
        )
    )
    assert seen == [(False, "it is starting")]
    assert agent.status().ready


def test_component_can_say_that_it_goes_on_with_less(parts: Parts, run: Run) -> None:
    contexts: list[Context] = []

    def make(context: Context) -> Count:
        contexts.append(context)
        context.degraded("no reasons below 5.17")
        return Count("partly", CountSettings(), parts.story)

    agent = run(
        configuration(parts.other(ComponentKind.RECEIVER, "partly", make), parts.exporter())
    )
    shown = status_of(agent, "partly")
    assert (shown.state, shown.reason) == (State.DEGRADED, "no reasons below 5.17")
    contexts[0].degraded("")
    assert status_of(agent, "partly").state is State.RUNNING


def test_agent_is_silent_when_the_sdk_is_disabled(parts: Parts, run: Run) -> None:
    class Health:
        def start(self) -> None:
            parts.story.tell("health started")

        def stop(self) -> None: ...

    agent = run(
        configuration(
            parts.other(ComponentKind.EXTENSION, "health", Health()),
            parts.receiver("red", PRIMES),
            parts.exporter(),
        ),
        {"OTEL_SDK_DISABLED": "true"},
    )
    assert agent.status().ready
    assert agent.stop()
    assert parts.story.lines == ["health started"]


def test_own_metrics_ride_the_exporters_of_the_pipelines(parts: Parts, run: Run) -> None:
    agent = run(configuration(parts.receiver("red", PRIMES), parts.exporter()))
    ticks(agent, len(PRIMES) + 1)
    assert agent.stop()
    own = parts.story.own
    # Attributes in the order of their names: account, ledger, unit.
    assert own["retina.ledger.count"]["drained", "pipeline/metrics", "rows"] == len(PRIMES)
    assert own["retina.ledger.difference"]["pipeline/metrics", "rows"] == 0
    assert own["retina.component.status"]["red", "receiver", "running"] == 1
    assert own["retina.component.status"]["red", "receiver", "failed"] == 0
    assert own["retina.pipeline.series"][("metrics",)] == 1
    assert own["process.memory.usage"][()] > 0
    assert {mode for (mode,) in own["process.cpu.time"]} == {"user", "system"}


def test_pipelines_that_are_one_are_told_once_and_by_the_same_name(parts: Parts, run: Run) -> None:
    """However the configuration orders them, as long as the one is there by which they began."""
    made = configuration(parts.receiver("red", PRIMES), parts.exporter())
    pipeline = made.service.pipelines["metrics"]

    def with_names(*names: str) -> Configuration:
        pipelines = dict.fromkeys(names, pipeline)
        return replace(made, service=made.service.model_copy(update={"pipelines": pipelines}))

    agent = run(with_names("metrics/b", "metrics/c"))
    ticks(agent, 2)
    agent.reload(with_names("metrics/a", "metrics/c", "metrics/b"))
    ticks(agent, len(PRIMES))
    assert agent.stop()
    own = parts.story.own
    assert own["retina.pipeline.series"].keys() == {("metrics/b",), ("own",)}
    assert own["retina.pipeline.series"]["metrics/b",] == len(parts.story.starts["keep"]) == 1
    assert {
        pipeline
        for _, pipeline, _ in (key for key in own["retina.ledger.count"] if len(key) == 3)
        if pipeline.startswith("pipeline/")
    } == {"pipeline/metrics/b", "pipeline/own"}


def test_own_metrics_can_be_switched_off(parts: Parts, run: Run) -> None:
    agent = run(
        configuration(
            parts.receiver("red", PRIMES),
            parts.exporter(),
            telemetry={"metrics": {"enabled": False}},
        )
    )
    ticks(agent, 2)
    assert agent.stop()
    assert parts.story.own == {}


def test_not_ready_when_nothing_works() -> None:
    from retina_otel.agent.logs import logger_for
    from retina_otel.agent.status import StatusBoard

    board = StatusBoard()

    def judge(age_s: float = 0.0) -> AgentStatus:
        return board.agent(uptime_s=1, tick_age_s=age_s, tick_limit_s=15)

    key = (ComponentKind.RECEIVER, "flows")
    board.add(key, logger_for("receiver", "flows"))
    assert judge().reason == "no receiver works"
    board.set(key, State.RUNNING)
    assert judge().ready
    assert judge(age_s=16).reason == "nothing was collected for 16 s"
    board.set(key, State.FAILED, "gone")
    assert not judge().ready
