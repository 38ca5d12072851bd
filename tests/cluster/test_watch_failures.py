"""What a watcher has told stays exact through every failure of the API server or its store."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit

from retina_otel.kubernetes.api.access import Access
from retina_otel.kubernetes.api.watch import Kind
from retina_otel.testing.cluster import ControlPlane
from tests.cluster.mirror import QUICK, watching
from tests.cluster.pods import Pods


def test_a_watch_that_the_api_server_ends_goes_on_where_it_was(
    control_plane: ControlPlane, pods: Pods
) -> None:
    timing = replace(QUICK, watch_s=1.0, lasting_s=0.5)
    with watching(control_plane.kubeconfig, timing=timing) as mirror:
        mirror.wait_state(True)
        for n in range(3):
            pods.create(f"pod-{n}")
            wait_for_an_ended_watch(control_plane)
        pods.create("last")
        mirror.wait_for("last")
        assert set(mirror.objects) == set(pods.listed())
        assert [mirror.told(f"pod-{n}") for n in range(3)] == [1, 1, 1]
        assert mirror.lists() == 1


def wait_for_an_ended_watch(control_plane: ControlPlane) -> None:
    access = Access.from_settings(control_plane.kubeconfig)

    def ended() -> int:
        """How many watches of all pods the API server has served to their end."""
        lines = access.get("/metrics", accept="*/*").decode().splitlines()
        wanted = ('resource="pods"', 'verb="WATCH"', 'scope="cluster"')
        return sum(
            int(float(line.rpartition(" ")[2]))
            for line in lines
            if line.startswith("apiserver_request_total{") and all(one in line for one in wanted)
        )

    before = ended()
    control_plane.wait_for(lambda: ended() > before, what="ended watch")


def test_it_goes_on_after_a_restart_of_the_api_server(
    control_plane: ControlPlane, pods: Pods
) -> None:
    pods.create("before")
    with watching(control_plane.kubeconfig) as mirror:
        mirror.wait_state(True)
        seen = len(mirror.states)
        control_plane.stop_api_server(kill=True)
        away = mirror.wait_state(False, "away", after=seen)
        assert control_plane.url in away.reason
        assert mirror.names() == {"before"}
        control_plane.start_api_server()
        pods.delete("before")
        pods.create("after")
        mirror.wait(lambda: mirror.names() == {"after"}, "change after the restart")
        assert set(mirror.objects) == set(pods.listed())


def test_when_history_is_gone_the_list_is_read_again(
    control_plane: ControlPlane, pods: Pods
) -> None:
    pods.create("before")
    with (
        watching(control_plane.kubeconfig) as mirror,
        watching(control_plane.kubeconfig, Kind.NAMESPACE) as writer,
    ):
        mirror.wait_state(True)
        writer.wait_state(True)
        # The watch of pods hears nothing of these revisions.
        for n in range(3):
            control_plane.kubectl("create", "namespace", f"gone-{n}")
        control_plane.compact()
        mirror.wait(lambda: mirror.lists() == 2, "second list")
        assert any("410" in each.reason or "too old" in each.reason for each in mirror.states)
        pods.create("after")
        mirror.wait_for("after")
        assert set(mirror.objects) == set(pods.listed())
        control_plane.kubectl(
            "delete", "namespace", *(f"gone-{n}" for n in range(3)), "--wait=false"
        )


def test_nothing_of_a_wiped_store_is_left(control_plane: ControlPlane, pods: Pods) -> None:
    for n in range(5):
        pods.create(f"pod-{n}")
    with watching(control_plane.kubeconfig) as mirror:
        mirror.wait_state(True)
        control_plane.wipe_store()
        mirror.wait(lambda: mirror.lists() == 2, "second list")
        assert mirror.names() == set()
        gone = {one.meta.name for one in mirror.changes[-1].deleted}
        assert gone == {f"pod-{n}" for n in range(5)}
        Pods(control_plane).create("after")
        mirror.wait_for("after")
        assert set(mirror.objects) == set(pods.listed())


def test_after_an_older_store_is_restored_what_it_has_is_told(
    control_plane: ControlPlane, pods: Pods, tmp_path: Path
) -> None:
    pods.create("kept")
    copy = control_plane.save_store(tmp_path / "copy")
    with watching(control_plane.kubeconfig) as mirror:
        mirror.wait_state(True)
        pods.delete("kept")
        for n in range(20):
            pods.create(f"lost-{n}")
        mirror.wait_for("lost-19")
        control_plane.restore_store(copy)
        mirror.wait(lambda: mirror.names() == {"kept"}, "older state")
        assert set(mirror.objects) == set(pods.listed())
        assert any("another store" in each.reason for each in mirror.states)


def test_an_api_server_that_says_nothing_is_given_up(
    control_plane: ControlPlane, pods: Pods
) -> None:
    pods.create("before")
    timing = replace(QUICK, stale_s=0.5, connect_s=0.5)
    with watching(control_plane.kubeconfig, timing=timing) as mirror:
        mirror.wait_state(True)
        with frozen(control_plane):
            seen = len(mirror.states)
            mirror.wait_state(False, "nothing came", after=seen)
        pods.create("after")
        mirror.wait_for("after")
        assert set(mirror.objects) == set(pods.listed())


def test_a_watch_of_what_does_not_change_is_no_fault(
    control_plane: ControlPlane, pods: Pods
) -> None:
    """Nothing comes, as on a quiet cluster, where there are no bookmarks either."""
    pods.create("before")
    timing = replace(QUICK, stale_s=0.3)
    with watching(control_plane.kubeconfig, timing=timing) as mirror:
        mirror.wait_state(True)
        ended = ended_watches(control_plane)
        control_plane.wait_for(lambda: ended_watches(control_plane) > ended + 2, what="silence")
        pods.create("after")
        mirror.wait_for("after")
        assert set(mirror.objects) == set(pods.listed())
        assert [state.reason for state in mirror.states] == [""]
        assert mirror.lists() == 1


def ended_watches(control_plane: ControlPlane) -> int:
    """Of pods, as the API server counts them."""
    text = control_plane.kubectl("get", "--raw", "/metrics").stdout
    return sum(
        int(line.rpartition(" ")[2])
        for line in text.splitlines()
        if line.startswith("apiserver_request_total{")
        and 'resource="pods"' in line
        and 'verb="WATCH"' in line
    )


@contextmanager
def frozen(control_plane: ControlPlane) -> Iterator[None]:
    """The API server's connections stay open, and nothing comes from them."""
    pid = control_plane.api_server_pid
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


BOUNDS = [0.2, 0.4, 0.4, 0.4, 0.4]
"""Each wait is at least half of one that doubles, up to the longest."""


def test_an_api_server_that_hangs_up_is_asked_less_and_less_often(
    control_plane: ControlPlane, pods: Pods
) -> None:
    url = urlsplit(control_plane.url)
    with watching(control_plane.kubeconfig) as mirror:
        mirror.wait_state(True)
        control_plane.stop_api_server(kill=True)
        arrivals = []
        with socket.create_server(("127.0.0.1", url.port or 0), reuse_port=True) as server:
            for _ in range(6):
                connection, _ = server.accept()
                arrivals.append(time.monotonic())
                connection.close()
        waits = [later - one for one, later in pairwise(arrivals)]
        # A wait of the first kind has passed before the first arrival.
        assert [wait < 0.5 * bound for wait, bound in zip(waits, BOUNDS, strict=True)] == [
            False
        ] * 5
        control_plane.start_api_server()
        pods.create("after")
        mirror.wait_for("after")
