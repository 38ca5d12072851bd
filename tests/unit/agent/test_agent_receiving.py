"""A receiver that is down is tried again with growing pauses, unless that could not help."""

from __future__ import annotations

import errno
import logging

import pytest

from retina_otel.agent.receiving import FAILURES_BEFORE_RESTART, RunningReceiver
from retina_otel.agent.status import StatusBoard
from retina_otel.component import Collected, ComponentKind, State
from retina_otel.errors import KernelError
from retina_otel.model.batches import Window
from tests.unit.agent.agent_parts import Count, CountSettings, Story

KEY = (ComponentKind.RECEIVER, "one")
SECOND = 1_000_000_000


class HandClock:
    def __init__(self) -> None:
        self.now_ns = 1000 * SECOND

    def wall_ns(self) -> int:
        return self.now_ns

    def monotonic_ns(self) -> int:
        return self.now_ns

    def offset_ns(self) -> int:
        return 0


class Flaky(Count):
    """Starts only when `error` is None, and collects only when it does not `break`."""

    error: Exception | None = None
    breaks = False
    collected = 0

    def start(self) -> None:
        if Flaky.error is not None:
            raise Flaky.error
        super().start()

    def collect(self, window: Window, deadline_ns: int) -> Collected:
        if Flaky.breaks:
            raise OSError(errno.EIO, "broken")
        Flaky.collected += 1
        return Collected()


@pytest.fixture
def board() -> StatusBoard:
    Flaky.error, Flaky.breaks, Flaky.collected = None, False, 0
    board = StatusBoard()
    board.add(KEY, logging.getLogger("test"))
    return board


def running(board: StatusBoard, clock: HandClock) -> tuple[RunningReceiver, Story]:
    story = Story()
    return (
        RunningReceiver(
            KEY, lambda: Flaky("one", CountSettings(), story), clock, board, lambda id_, s: None
        ),
        story,
    )


def due(receiver: RunningReceiver, clock: HandClock, seconds: int) -> list[int]:
    """At which seconds from now it tried to start."""
    tried = []
    begun_ns = clock.now_ns
    before = failures(receiver)
    for _ in range(seconds):
        clock.now_ns += SECOND
        receiver.retry_if_due(clock.now_ns)
        if failures(receiver) > before:
            before = failures(receiver)
            tried.append((clock.now_ns - begun_ns) // SECOND)
    return tried


def failures(receiver: RunningReceiver) -> int:
    return receiver._board.components()[0].failures


def test_start_is_tried_again_with_growing_pauses(board: StatusBoard) -> None:
    clock = HandClock()
    receiver, story = running(board, clock)
    Flaky.error = KernelError("socket(AF_NETLINK)", errno.ENOMEM)
    receiver.start(clock.wall_ns())
    assert board.state(KEY) is State.FAILED
    assert due(receiver, clock, 160) == [5, 15, 35, 75, 155]
    Flaky.error = None
    clock.now_ns += 200 * SECOND
    receiver.retry_if_due(clock.now_ns)
    assert board.state(KEY) is State.RUNNING
    assert story.lines[-1] == "one started"


def test_missing_privilege_is_not_tried_again(board: StatusBoard) -> None:
    clock = HandClock()
    receiver, _ = running(board, clock)
    Flaky.error = KernelError("bpf(BPF_PROG_LOAD)", errno.EPERM, "Give it CAP_BPF.")
    receiver.start(clock.wall_ns())
    assert due(receiver, clock, 1000) == []
    assert not receiver.running


def test_receiver_that_fails_in_a_row_is_closed_and_made_anew(board: StatusBoard) -> None:
    clock = HandClock()
    receiver, story = running(board, clock)
    receiver.start(clock.wall_ns())
    Flaky.breaks = True
    for _ in range(FAILURES_BEFORE_RESTART):
        assert receiver.running
        receiver.collect(clock.now_ns, clock.now_ns + SECOND, lambda collected: None)
    assert not receiver.running
    assert story.lines == ["one started", "one stopped with 0 left"]
    Flaky.breaks = False
    clock.now_ns += 5 * SECOND
    receiver.retry_if_due(clock.now_ns)
    receiver.collect(clock.now_ns + 1, clock.now_ns + SECOND, lambda collected: None)
    assert (board.state(KEY), Flaky.collected) == (State.RUNNING, 1)
