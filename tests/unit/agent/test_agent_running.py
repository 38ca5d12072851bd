"""The agent keeps running what works, tells what does not, and ends in order, all sent."""

from __future__ import annotations

import errno
import os
import threading
import time

import numpy as np
import pytest

from retina_otel.agent.agent import Agent, NoReceiverError
from retina_otel.component import Collected, ComponentKind, Context, State
from retina_otel.errors import ConfigError, KernelError, RetinaError
from retina_otel.model.batches import EventBatch, MetricBatch, Window
from tests.unit.agent.agent_parts import (
    COUNTED,
    PRIMES,
    Count,
    CountSettings,
    Parts,
    Run,
    configuration,
    status_of,
    ticks,
    until,
)


def test_every_count_reaches_the_exporter_and_the_end_is_in_order(parts: Parts, run: Run) -> None:
    class Last:
        def start(self) -> None:
            parts.story.tell("extension started")

        def stop(self) -> None:
            parts.story.tell("extension stopped")

    agent = run(
        configuration(
            parts.other(ComponentKind.EXTENSION, "extension", Last()),
            parts.receiver("red", PRIMES),
            parts.exporter(),
        )
    )
    ticks(agent, len(PRIMES) + 1)
    assert agent.stop()
    assert parts.story.sums == {"keep": sum(PRIMES)}
    assert parts.story.events == {"keep": len(PRIMES)}
    begin, end = parts.story.lines[:3], parts.story.lines[3:]
    assert begin == ["extension started", "red started", "keep started"]
    assert sorted(end[:2]) == ["keep stopped at 41", "red stopped with 0 left"]
    assert end[2:] == ["extension stopped"]
    assert {one.state for one in agent.status().components} == {State.STOPPED}


def test_what_is_counted_last_is_collected_at_the_end(parts: Parts, run: Run) -> None:
    agent = run(configuration(parts.receiver("red", [7]), parts.exporter(), interval=60))
    assert agent.stop()
    assert parts.story.sums == {"keep": 7}


def test_receiver_that_raises_harms_only_itself(parts: Parts, run: Run) -> None:
    class Broken(Count):
        def collect(self, window: Window, deadline_ns: int) -> Collected:
            raise RuntimeError("out of order")

    broken = Broken("broken", CountSettings(), parts.story)
    agent = run(
        configuration(
            parts.other(ComponentKind.RECEIVER, "broken", broken),
            parts.receiver("red", PRIMES),
            parts.exporter(),
        )
    )
    ticks(agent, len(PRIMES) + 1)
    shown = status_of(agent, "broken")
    assert shown.state is State.FAILED
    assert shown.reason == "RuntimeError: out of order"
    # Three collections, then the end of trying.
    assert shown.failures == 4
    assert status_of(agent, "red").failures == 0
    assert agent.status().ready
    assert agent.stop()
    assert parts.story.sums == {"keep": sum(PRIMES)}
    assert "broken stopped with 0 left" in parts.story.lines


def test_window_covers_the_time_of_a_failed_collection(parts: Parts, run: Run) -> None:
    windows: list[Window] = []

    class Once(Count):
        def collect(self, window: Window, deadline_ns: int) -> Collected:
            windows.append(window)
            if len(windows) == 2:
                raise OSError(errno.EAGAIN, "again")
            return Collected()

    once = Once("once", CountSettings(), parts.story)
    agent = run(configuration(parts.other(ComponentKind.RECEIVER, "once", once), parts.exporter()))
    until(lambda: len(windows) > 3, "four collections")
    assert agent.stop()
    assert windows[1].start_ns == windows[0].end_ns
    assert windows[2].start_ns == windows[0].end_ns
    assert windows[2].end_ns > windows[1].end_ns
    assert windows[3].start_ns == windows[2].end_ns
    assert agent.status().components[0].failures == 1


def test_receiver_that_cannot_start_is_told_with_its_remedy(parts: Parts, run: Run) -> None:
    class Forbidden(Count):
        def start(self) -> None:
            raise KernelError("bpf(BPF_PROG_LOAD)", errno.EPERM, "Give it CAP_BPF.")

    forbidden = Forbidden("forbidden", CountSettings(), parts.story)
    agent = run(
        configuration(
            parts.other(ComponentKind.RECEIVER, "forbidden", forbidden),
            parts.receiver("red", []),
            parts.exporter(),
        )
    )
    shown = status_of(agent, "forbidden")
    assert shown.state is State.FAILED
    assert shown.reason == ("bpf(BPF_PROG_LOAD): EPERM (Operation not permitted). Give it CAP_BPF.")
    assert agent.status().ready


def test_agent_ends_when_no_receiver_can_run(parts: Parts) -> None:
    class Forbidden(Count):
        def start(self) -> None:
            raise KernelError("bpf(BPF_PROG_LOAD)", errno.EPERM, "Give it CAP_BPF.")

    forbidden = Forbidden("forbidden", CountSettings(), parts.story)
    agent = Agent(
        configuration(
            parts.other(ComponentKind.RECEIVER, "forbidden", forbidden), parts.exporter()
        ),
        {},
    )
    with pytest.raises(NoReceiverError) as caught:
        agent.start()
    assert str(caught.value) == (
        "no receiver can run: forbidden: bpf(BPF_PROG_LOAD): EPERM (Operation not permitted). "
        "Give it CAP_BPF."
    )
    # What had been started is closed again.
    assert parts.story.lines[-1] == "keep stopped at 0"


def test_exporter_that_cannot_start_ends_the_start(parts: Parts) -> None:
    class Taken:
        def start(self, metrics: object, events: object) -> None:
            raise ConfigError("port is taken", "Choose another.")

        def stop(self, deadline_ns: int) -> None:
            parts.story.tell("taken stopped")

    agent = Agent(
        configuration(
            parts.receiver("red", [2]), parts.other(ComponentKind.EXPORTER, "taken", Taken())
        ),
        {},
    )
    with pytest.raises(ConfigError, match="port is taken"):
        agent.start()
    assert sorted(parts.story.lines[1:]) == ["red stopped with 1 left", "taken stopped"]


def test_late_receiver_is_degraded_until_it_is_on_time_again(parts: Parts, run: Run) -> None:
    collections = 0

    class Late(Count):
        def collect(self, window: Window, deadline_ns: int) -> Collected:
            nonlocal collections
            collections += 1
            if collections == 1:
                while time.monotonic_ns() <= deadline_ns:
                    time.sleep(0.001)
            return Collected()

    late = Late("late", CountSettings(), parts.story)
    agent = run(
        configuration(
            parts.other(ComponentKind.RECEIVER, "late", late),
            parts.receiver("red", PRIMES),
            parts.exporter(),
        )
    )
    until(lambda: status_of(agent, "late").failures == 1, "the late collection")
    ticks(agent, len(PRIMES) + 1)
    assert status_of(agent, "late").state is State.RUNNING
    assert agent.stop()
    assert status_of(agent, "late").failures == 1
    assert parts.story.sums == {"keep": sum(PRIMES)}


def test_malformed_batch_harms_only_its_receiver(parts: Parts, run: Run) -> None:
    class Malformed(Count):
        def collect(self, window: Window, deadline_ns: int) -> Collected:
            return Collected([MetricBatch(window, {COUNTED: "no numbers"})])  # type: ignore[dict-item]

    malformed = Malformed("malformed", CountSettings(), parts.story)
    agent = run(
        configuration(
            parts.other(ComponentKind.RECEIVER, "malformed", malformed),
            parts.receiver("red", PRIMES),
            parts.exporter(),
        )
    )
    ticks(agent, len(PRIMES) + 1)
    assert status_of(agent, "malformed").state is State.FAILED
    assert agent.stop()
    assert parts.story.sums == {"keep": sum(PRIMES)}


def test_processor_that_raises_loses_a_batch_and_counts_it(parts: Parts, run: Run) -> None:
    class Choosy:
        def process_metrics(self, batch: MetricBatch) -> MetricBatch | None:
            if batch.values[COUNTED][0] == 5:
                raise ValueError("not five")
            return batch

        def process_events(self, batch: EventBatch) -> EventBatch | None:
            return None

    agent = run(
        configuration(
            parts.receiver("red", PRIMES),
            parts.other(ComponentKind.PROCESSOR, "choosy", Choosy()),
            parts.exporter(),
        )
    )
    ticks(agent, len(PRIMES) + 1)
    assert agent.stop()
    assert parts.story.sums == {"keep": sum(PRIMES) - 5}
    assert parts.story.events == {}
    ledger = agent.status().ledgers["processor/choosy"]
    assert (ledger.seen, ledger.lost, ledger.difference) == (1, {"processor_failed": 1}, 0)
    pipeline = agent.status().ledgers["pipeline/metrics"]
    assert (pipeline.seen, pipeline.drained, pipeline.filtered) == (6, 5, 1)


def test_exporter_that_hangs_does_not_take_the_time_of_others(parts: Parts, run: Run) -> None:
    release = os.eventfd(0)

    class Hangs:
        def start(self, metrics: object, events: object) -> None: ...

        def stop(self, deadline_ns: int) -> None:
            os.read(release, 8)

    agent = run(
        configuration(
            parts.receiver("red", [7]),
            parts.other(ComponentKind.EXPORTER, "hangs", Hangs()),
            parts.exporter(),
            interval=60,
        )
    )
    try:
        assert not agent.stop()
        assert parts.story.sums == {"keep": 7}
        assert "red stopped with 0 left" in parts.story.lines
    finally:
        os.eventfd_write(release, 1)


def test_ready_descriptor_wakes_the_tick_thread(parts: Parts, run: Run) -> None:
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    woken: list[int] = []

    class Pushed(Count):
        def fds(self) -> list[int]:
            return [fd]

        def ready(self, ready_fd: int) -> None:
            woken.append(os.eventfd_read(ready_fd))

    pushed = Pushed("pushed", CountSettings(), parts.story)
    run(
        configuration(
            parts.other(ComponentKind.RECEIVER, "pushed", pushed), parts.exporter(), interval=60
        )
    )
    os.eventfd_write(fd, 5)
    until(lambda: bool(woken), "the wake-up")
    os.eventfd_write(fd, 7)
    until(lambda: len(woken) == 2, "the second wake-up")
    assert woken == [5, 7]


def test_receiver_that_never_returns_does_not_keep_the_rest_from_being_sent(
    parts: Parts, run: Run
) -> None:
    entered, release = threading.Event(), threading.Event()

    class Stuck(Count):
        def collect(self, window: Window, deadline_ns: int) -> Collected:
            if not self.left:
                entered.set()
                release.wait()
            return super().collect(window, deadline_ns)

    stuck = Stuck("stuck", CountSettings(counts=[7]), parts.story)
    agent = run(
        configuration(parts.other(ComponentKind.RECEIVER, "stuck", stuck), parts.exporter())
    )
    entered.wait(10)
    try:
        assert not agent.stop()
        assert parts.story.lines[-1] == "keep stopped at 7"
    finally:
        release.set()
    assert agent.join(10)


def test_other_packages_errors_at_the_start_are_one_line_with_the_components_name(
    parts: Parts,
) -> None:
    def make(context: Context) -> object:
        raise OSError(errno.ENOSPC, "disk is full")

    agent = Agent(
        configuration(
            parts.receiver("red", []), parts.other(ComponentKind.EXPORTER, "theirs", make)
        ),
        {},
    )
    with pytest.raises(RetinaError) as caught:
        agent.start()
    assert str(caught.value) == (
        "the exporter 'theirs' can't be started: OSError: [Errno 28] disk is full"
    )


def test_numbers_are_exact_when_many_receivers_share_a_pipeline(parts: Parts, run: Run) -> None:
    generator = np.random.default_rng(7)
    counts = {f"r{i}": generator.integers(1, 1000, 5).tolist() for i in range(9)}
    agent = run(
        configuration(
            *(parts.receiver(id_, values) for id_, values in counts.items()), parts.exporter()
        )
    )
    ticks(agent, 6)
    assert agent.stop()
    assert parts.story.sums == {"keep": sum(map(sum, counts.values()))}
