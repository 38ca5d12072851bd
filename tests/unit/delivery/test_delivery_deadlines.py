"""Deadlines: what is late is told once, what ended in time never, whatever the others do."""

from __future__ import annotations

import threading
import time

from retina_otel.delivery.http.deadlines import Deadlines

LONG = 3600.0


def watchers() -> int:
    return sum(thread.name == "deadlines" for thread in threading.enumerate())


def test_what_is_late_is_told_once_and_others_are_not() -> None:
    deadlines, told, over = Deadlines(), [], threading.Event()

    def late() -> None:
        told.append("late")
        over.set()

    with (
        deadlines.within(LONG, lambda: told.append("long")),
        deadlines.within(0.01, late),
        deadlines.within(LONG, lambda: told.append("longer")),
    ):
        assert over.wait(10)
    with deadlines.within(0.0, over.clear):
        deadline = time.monotonic() + 10
        while over.is_set():
            assert time.monotonic() < deadline
    assert told == ["late"]


def test_what_has_ended_is_never_told_though_its_time_passes() -> None:
    deadlines, told, later = Deadlines(), [], threading.Event()
    for _ in range(10):
        with deadlines.within(0.02, lambda: told.append("late")):
            pass
    with deadlines.within(0.05, later.set):
        assert later.wait(10)
    assert told == []


def test_one_thread_watches_and_forgets_what_has_ended() -> None:
    before, deadlines = watchers(), Deadlines()
    for _ in range(1000):
        with deadlines.within(LONG, lambda: None):
            pass
    assert watchers() == before + 1
    assert len(deadlines._due) <= 64
