"""What the tick thread sleeps in: real descriptors, and wakes from another thread."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest

from retina_otel.agent.waking import Waking


@pytest.fixture
def waking() -> Iterator[Waking]:
    with Waking() as made:
        yield made


class Pipe:
    def __init__(self) -> None:
        self.end, self._other = os.pipe()

    def fill(self) -> None:
        os.write(self._other, b"x")

    def close(self) -> None:
        os.close(self.end)
        os.close(self._other)


def test_a_descriptor_wakes_once_for_what_comes_and_only_while_it_is_watched(
    waking: Waking,
) -> None:
    red, blue = Pipe(), Pipe()
    waking.watch({red.end: "red", blue.end: "blue"})
    red.fill()
    assert waking.wait(10) == [("red", red.end)]
    assert waking.wait(0) == []
    waking.watch({blue.end: "blue"})
    red.fill()
    assert waking.wait(0) == []
    blue.fill()
    assert waking.wait(10) == [("blue", blue.end)]
    red.close()
    blue.close()


def test_another_thread_wakes_it(waking: Waking) -> None:
    thread = threading.Thread(target=waking.wake)
    thread.start()
    assert waking.wait(10) == []
    thread.join()
    assert waking.wait(0) == []


@pytest.mark.parametrize("owner", ["red", "blue"])
def test_a_number_that_stands_for_another_file_wakes_too(waking: Waking, owner: str) -> None:
    old = Pipe()
    waking.watch({old.end: "red"})
    old.close()
    new = Pipe()
    assert new.end == old.end
    waking.watch({new.end: owner})
    new.fill()
    assert waking.wait(10) == [(owner, new.end)]
    new.close()
