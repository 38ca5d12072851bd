"""Whoever follows the API server ends at once, however long an answer takes, and tells no more."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

import pytest

from retina_otel.kubernetes.api.access import Access
from retina_otel.kubernetes.api.watch import Timing, Watcher
from retina_otel.kubernetes.inventory.owners import Missing
from retina_otel.kubernetes.metrics_configuration.following import Configurations
from retina_otel.kubernetes.objects import Kind, OwnerRef
from retina_otel.kubernetes.owner_reader import OwnerReader
from tests.e2e.agent import wait_until

AT_ONCE = Timing(phase_s=0)
REFUSED = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
Tell = Callable[[object], None]


class Follower(Protocol):
    def start(self) -> None: ...

    def stop(self) -> None: ...


def watcher(access: Access, tell: Tell) -> Follower:
    return Watcher(access, Kind.POD, on_change=tell, on_state=tell, timing=AT_ONCE)


def configurations(access: Access, tell: Tell) -> Follower:
    return Configurations(access, tell, tell, timing=AT_ONCE)


def owner_reader(access: Access, tell: Tell) -> Follower:
    reader = OwnerReader(access, tell, tell)
    reader.ask({"uid": Missing("default", OwnerRef("a.io/v1", "A", "one", "uid"))})
    return reader


@contextmanager
def silent(folder: Path) -> Iterator[tuple[socket.socket, Access]]:
    """An API server that takes connections and says nothing by itself."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        named = {
            "clusters": [{"name": "a", "cluster": {"server": url}}],
            "users": [{"name": "a", "user": {}}],
            "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
            "current-context": "a",
        }
        path = folder / "kubeconfig"
        path.write_text(json.dumps(named))
        yield listening, Access.from_settings(path)


def ends_before_the_answer(follower: Follower) -> bool:
    stopping = threading.Thread(target=follower.stop, daemon=True)
    stopping.start()
    stopping.join(5)
    return not stopping.is_alive()


@pytest.mark.parametrize("make", [watcher, configurations, owner_reader])
def test_a_stop_waits_for_no_answer_and_nothing_is_told_after_it(
    make: Callable[[Access, Tell], Follower], tmp_path: Path
) -> None:
    told: list[object] = []
    before = set(threading.enumerate())
    with silent(tmp_path) as (listening, access):
        follower = make(access, told.append)
        follower.start()
        asked, _ = listening.accept()
        with asked:
            assert asked.recv(4096).startswith(b"GET ")
            assert ends_before_the_answer(follower)
            asked.sendall(REFUSED)
    wait_until(lambda: set(threading.enumerate()) <= before, "an end of its thread")
    assert told == []


def test_a_stop_waits_for_no_configurations_that_are_read_anew(tmp_path: Path) -> None:
    """The watch has told of a change; what has changed is asked for, and does not come."""
    told: list[object] = []
    before = set(threading.enumerate())
    with silent(tmp_path) as (listening, access), ExitStack() as held:
        follower = configurations(access, told.append)
        follower.start()
        # Which store it is and the watch are refused; whether there is such a kind is asked last.
        for path in (b"GET /api/v1/namespaces/kube-system ", b"GET /apis/retina.sh/"):
            asked, _ = listening.accept()
            with asked:
                assert asked.recv(4096).startswith(path)
                asked.sendall(REFUSED)
        last = held.enter_context(listening.accept()[0])
        assert b"limit=1" in last.recv(4096)
        assert ends_before_the_answer(follower)
        last.sendall(REFUSED)
    wait_until(lambda: set(threading.enumerate()) <= before, "an end of its thread")
    assert told == []
