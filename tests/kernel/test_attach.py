"""Programs are attached where asked, nothing of ours is left behind, and others' are untouched."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from retina_otel.errors import AttachError
from retina_otel.kernel import probe, syscall
from retina_otel.kernel.bpf import attach
from retina_otel.kernel.net import clsact_filters
from retina_otel.kernel.net.netlink import RouteSocket
from tests.kernel.conftest import SelfTest, command

HOOKS = ["clsact", *(["tcx"] if probe.probe().tcx.available else [])]
N = 1009
ROOT = Path(__file__).parents[2]
ABSENT = 999_999


def on(hook, selftest, namespace, program="rt_count", **where):
    options = {"ifindex": 1, "ingress": True, **where}
    fd = selftest.programs[program]
    return namespace.run(lambda: getattr(attach, hook)(fd, **options))


def state(namespace) -> str:
    """All qdiscs and filters, as tc prints them."""
    shown = [namespace.tc("qdisc show")]
    for name in ("lo",):
        shown += [namespace.tc(f"filter show dev {name} {way}") for way in ("ingress", "egress")]
    return "\n".join(shown)


@contextlib.contextmanager
def foreign_filter(namespace, selftest: SelfTest, program: str, priority: int) -> Iterator[None]:
    """A filter that somebody else has put on loopback by the tc command."""
    program_id = syscall.prog_info(selftest.programs[program]).id
    with tempfile.TemporaryDirectory() as mount:
        command("mount", "-t", "bpf", "bpf", mount)
        try:
            command("bpftool", "prog", "pin", "id", str(program_id), f"{mount}/foreign")
            namespace.tc("qdisc add dev lo clsact")
            namespace.tc(
                f"filter add dev lo ingress prio {priority} bpf da object-pinned {mount}/foreign"
            )
            yield
        finally:
            command("umount", mount)


@pytest.mark.kernels
@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("ingress", [True, False])
def test_each_packet_is_seen_once_and_goes_on(selftest, namespace, hook, ingress):
    with on(hook, selftest, namespace, ingress=ingress):
        namespace.send(N)
    namespace.send(3)

    assert int(selftest.globals.rt_packets) == N


@pytest.mark.kernels
@pytest.mark.parametrize("hook", HOOKS)
def test_closing_leaves_nothing_attached(selftest, namespace, hook):
    before = state(namespace)

    links = [on(hook, selftest, namespace, ingress=ingress) for ingress in (True, False)]
    for link in links:
        link.close()
        link.close()

    assert state(namespace) == before


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize(("position", "seen"), [("first", N), ("last", 0)])
def test_the_position_decides_who_sees_what_another_ends(load, namespace, hook, position, seen):
    ours, foreign = load(), load()

    with (
        on(hook, foreign, namespace, "rt_stop"),
        on(hook, ours, namespace, position=position),
    ):
        namespace.send(N)

    assert int(foreign.globals.rt_stopped) == N
    assert int(ours.globals.rt_packets) == seen


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("position", ["first", "last"])
def test_programs_of_others_see_every_packet_beside_ours(load, namespace, hook, position):
    ours, foreign = load(), load()

    with on(hook, foreign, namespace):
        with on(hook, ours, namespace, position=position):
            namespace.send(N)
        namespace.send(N)

    assert int(foreign.globals.rt_packets) == 2 * N
    assert int(ours.globals.rt_packets) == N


@pytest.mark.kernels
@pytest.mark.parametrize("priority", [1, 2, 500])
@pytest.mark.parametrize("position", ["first", "last"])
def test_a_foreign_filter_is_untouched_and_sees_its_packets(load, namespace, priority, position):
    ours, foreign = load(), load()
    with foreign_filter(namespace, foreign, "rt_count", priority):
        before = state(namespace)

        with on("clsact", ours, namespace, position=position):
            namespace.send(N)
        after = state(namespace)
        namespace.run(attach.remove_stray_clsact)
        namespace.send(N)

        assert after == before == state(namespace)
        assert int(ours.globals.rt_packets) == N
        assert int(foreign.globals.rt_packets) == 2 * N


def test_many_of_ours_share_an_interface(selftest, namespace):
    before = state(namespace)
    with contextlib.ExitStack() as links:
        for at in range(12):
            position = "first" if at % 2 else "last"
            links.enter_context(on("clsact", selftest, namespace, position=position))
        namespace.send(101)

    assert int(selftest.globals.rt_packets) == 12 * 101
    assert state(namespace) == before


AGENT = """
import os, sys, time
from retina_otel.kernel.bpf import attach
from retina_otel.kernel.net import netns, reaper
from retina_otel.loaders import core, objects
if "no-reaper" in sys.argv:
    reaper._PROGRAM = "pass"
loaded = core.load(objects.path("rt_selftest"), skip=["rt_refused"])
hook = getattr(attach, sys.argv[2])
links = netns.run_in(
    sys.argv[1],
    lambda: [hook(loaded.programs["rt_count"], 1, way) for way in (True, False)],
)
print("attached", flush=True)
time.sleep(60)
"""


@contextlib.contextmanager
def agent(namespace, hook: str, *more: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", AGENT, namespace.path, hook, *more],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "attached\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def wait_for_state(namespace, expected: str) -> str:
    """The state when it is as expected, or after ten seconds as it is then."""
    for _ in range(200):
        if (now := state(namespace)) == expected:
            break
        time.sleep(0.05)
    return now


@pytest.mark.kernels
@pytest.mark.parametrize("hook", HOOKS)
def test_a_killed_agent_leaves_nothing_attached(namespace, hook):
    before = state(namespace)
    with agent(namespace, hook) as process:
        assert hook == "tcx" or state(namespace) != before
        process.send_signal(signal.SIGKILL)
        process.wait()

        assert wait_for_state(namespace, before) == before


def test_what_even_the_reaper_left_is_removed_at_the_next_start(namespace):
    before = state(namespace)
    with agent(namespace, "clsact", "no-reaper") as process:
        assert namespace.run(attach.remove_stray_clsact) == 0
        during = state(namespace)
        process.kill()
        process.wait()
    assert state(namespace) == during != before

    assert namespace.run(attach.remove_stray_clsact) == 2
    assert state(namespace) == before


def test_a_filter_whose_name_only_looks_like_ours_stays(selftest, namespace):
    with RouteSocket() as _:
        namespace.tc("qdisc add dev lo clsact")
    fd = selftest.programs["rt_count"]

    def put() -> None:
        with RouteSocket() as route:
            clsact_filters.add(
                route, fd, (1, clsact_filters.INGRESS), position="last", name="retina_otel:x"
            )

    namespace.run(put)
    before = state(namespace)

    assert "retina_otel:x" in before
    assert namespace.run(attach.remove_stray_clsact) == 0
    assert state(namespace) == before


@pytest.mark.parametrize("hook", HOOKS)
def test_an_interface_that_goes_away_takes_its_program_along(selftest, namespace, hook):
    namespace.ip("link add rt0 type veth peer name rt1")
    link = on(hook, selftest, namespace, ifindex=namespace.ifindex("rt0"))

    namespace.ip("link del rt0")
    link.close()


@pytest.mark.parametrize("hook", HOOKS)
def test_an_interface_that_is_not_there_is_an_error(selftest, namespace, hook):
    with pytest.raises(AttachError, match=rf"ENODEV.*{ABSENT}"):
        on(hook, selftest, namespace, ifindex=ABSENT)


def test_without_a_reaper_nothing_is_attached_by_clsact_and_the_next_try_may_work(
    selftest, namespace, monkeypatch
):
    before = state(namespace)

    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", "/nonexistent/python")
        with pytest.raises(AttachError, match="ENOENT"):
            on("clsact", selftest, namespace)

    assert state(namespace) == before
    on("clsact", selftest, namespace).close()


@pytest.mark.parametrize("hook", HOOKS)
def test_a_program_of_another_type_is_an_error_and_leaves_nothing(selftest, namespace, hook):
    before = state(namespace)

    with pytest.raises(AttachError, match="EINVAL"):
        on(hook, selftest, namespace, "rt_raw_receive")

    assert state(namespace) == before


@pytest.mark.kernels
def test_tracepoints_see_what_happens_while_they_are_attached(selftest, namespace):
    for link in (
        lambda: attach.tp_btf(selftest.programs["rt_receive"]),
        lambda: attach.raw_tp(selftest.programs["rt_raw_receive"], "netif_receive_skb"),
    ):
        selftest.globals.rt_wanted_netns[...] = os.stat(namespace.path).st_ino
        selftest.globals.rt_packets[...] = 0
        with link():
            namespace.send(N)
        namespace.send(1)
        assert int(selftest.globals.rt_packets) == N


def test_a_tracepoint_that_is_not_there_is_an_error(selftest):
    with pytest.raises(AttachError, match=r"ENOENT.*raw_tp rt_nowhere"):
        attach.raw_tp(selftest.programs["rt_raw_receive"], "rt_nowhere")


def cgroup_mount() -> str:
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _device, where, kind, *_ = line.split(" ")
        if kind == "cgroup2":
            return where
    raise AssertionError("no cgroup v2 is mounted")


def test_a_cgroup_program_counts_what_its_processes_send(selftest, namespace):
    path = Path(cgroup_mount()) / f"rt-kernel-{os.getpid()}"
    path.mkdir()
    sender = (
        # A socket belongs to the cgroup that its process was in when it made it.
        "import socket, sys; sys.stdin.read(); r = socket.socket(type=socket.SOCK_DGRAM); "
        "r.bind(('127.0.0.1', 0)); s = socket.socket(type=socket.SOCK_DGRAM); "
        f"[s.sendto(b'x', r.getsockname()) for _ in range({N})]"
    )
    try:
        program = selftest.programs["rt_cgroup_egress"]
        with attach.cgroup(program, str(path), attach.CGROUP_INET_EGRESS):
            process = subprocess.Popen(
                ["ip", "netns", "exec", namespace.name, sys.executable, "-c", sender],
                stdin=subprocess.PIPE,
            )
            (path / "cgroup.procs").write_text(str(process.pid))
            process.communicate(b"")
            assert process.returncode == 0
            namespace.send(3)
    finally:
        path.rmdir()

    assert int(selftest.globals.rt_packets) == N


def test_a_cgroup_that_is_not_there_is_an_error(selftest):
    with pytest.raises(AttachError, match=r"ENOENT.*cgroup v2"):
        attach.cgroup(selftest.programs["rt_cgroup_egress"], "/nowhere", 1)
