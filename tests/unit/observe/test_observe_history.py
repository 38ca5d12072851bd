"""Who follows the history gets all that came before its end, however late it takes it."""

from __future__ import annotations

import threading
from typing import Any, cast

from retina_otel.observe.history import Follower, History
from retina_otel.observe.records import Observed


def block(n: int) -> Observed:
    return cast(Observed, [None] * n)


def taken(follower: Follower) -> list[int]:
    """Sizes of the blocks until the end."""
    sizes = []
    while not follower.ended:
        observed, _ = follower.next(10.0)
        if observed is not None:
            sizes.append(len(observed))
    return sizes


def test_what_waits_when_the_history_ends_is_still_given() -> None:
    history = History(100)
    _, follower = history.follow()
    history.add(block(3))
    history.add(block(5))
    history.end(0)
    assert taken(follower) == [3, 5]


def test_the_end_waits_for_those_who_follow_and_for_no_other() -> None:
    history = History(100)
    _, follower = history.follow()
    history.add(block(7))
    order: list[Any] = []

    def follow() -> None:
        order.append(taken(follower))
        history.leave(follower)

    thread = threading.Thread(target=follow)
    thread.start()
    history.end(30)
    order.append("ended")
    thread.join()
    assert order == [[7], "ended"]
    history.end(30)


def test_who_comes_after_the_end_gets_what_is_kept_and_nothing_else() -> None:
    history = History(100)
    history.add(block(2))
    history.end(0)
    past, follower = history.follow()
    assert [len(one) for one in past] == [2]
    assert follower.ended
