"""However the agent ends, nothing of it stays: programs, maps, links, filters, qdiscs, processes,
files. Others' programs on the same interfaces see every packet, before, during and after.

What is the agent's is told by the ids that its own descriptors hold while it runs, and by the
lab's interfaces: other agents on this machine are not looked at.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from retina_otel.testing import traffic
from retina_otel.testing.lab import Lab
from retina_otel.testing.servers import UdpServer
from tests.e2e.agent import Agent, wait_until
from tests.netns.foreign import Foreign, add_filter, add_tcx, foreign_programs

GRACE_SECONDS = 5
KINDS = {"prog_id": "prog", "map_id": "map", "link_id": "link"}
CONFIG = """
extensions:
  static_identity: {{path: {folder}/identity.yaml}}
receivers:
  flows: {{hook: {hook}}}
  drops: {{}}
  interfaces: {{}}
processors:
  identity: {{}}
exporters:
  file: {{path: {folder}/otlp.jsonl, interval: 200ms}}
service:
  interval: 200ms
  extensions: [static_identity]
  pipelines:
    metrics:
      receivers: [flows, drops, interfaces]
      processors: [identity]
      exporters: [file]
"""


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab("shop/web", "shop/api") as made:
        yield made


def agent_with(lab: Lab, folder: Path, hook: str) -> Agent:
    lab.write_identity(folder / "identity.yaml")
    config = folder / "agent.yaml"
    config.write_text(CONFIG.format(folder=folder, hook=hook))
    agent = Agent(lab.node, config)
    agent.start()
    return agent


@dataclass(frozen=True, slots=True)
class Held:
    """What a running agent has."""

    ids: frozenset[tuple[str, int]]
    """Of programs, maps and links."""
    children: tuple[int, ...]

    @staticmethod
    def by(pid: int) -> Held:
        ids = {
            (KINDS[name], int(value))
            for entry in Path(f"/proc/{pid}/fdinfo").iterdir()
            for name, _, value in (line.partition(":") for line in entry.read_text().splitlines())
            if name in KINDS
        }
        for program in objects("prog"):
            if ("prog", program["id"]) in ids:
                ids |= {("map", number) for number in program.get("map_ids", ())}
        tasks = Path(f"/proc/{pid}/task").iterdir()
        children = " ".join((task / "children").read_text() for task in tasks)
        return Held(frozenset(ids), tuple(int(child) for child in children.split()))

    def count(self, kind: str) -> int:
        return sum(one == kind for one, _ in self.ids)

    def still_there(self) -> set[tuple[str, int]]:
        return self.ids & {(kind, one["id"]) for kind in KINDS.values() for one in objects(kind)}


def objects(kind: str) -> list[dict[str, int]]:
    """All "prog", "map" or "link" objects of the machine."""
    done = subprocess.run(
        ["bpftool", "--json", kind, "show"], capture_output=True, text=True, check=True
    )
    found: list[dict[str, int]] = json.loads(done.stdout)
    return found


def tc(lab: Lab) -> list[str]:
    """All qdiscs and filters of the node's interfaces, as tc tells them."""
    commands = [["qdisc", "show"]] + [
        ["filter", "show", "dev", name, hook]
        for name in sorted(lab.node.interfaces())
        for hook in ("ingress", "egress")
    ]
    return [lab.node.run(["tc", *command]).stdout for command in commands]


def ours(lab: Lab) -> int:
    """Our filters on the node's interfaces."""
    return sum(text.count("retina_otel:") for text in tc(lab))


def in_node(lab: Lab) -> set[int]:
    """The processes in the node's network namespace."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if (entry / "ns/net").stat().st_ino == lab.node.inode:
                    found.add(int(entry.name))
            except OSError:
                continue  # it has ended just now
    return found


def runs(pid: int) -> bool:
    """Whether a process is there. One that has ended, and that nobody has asked how, is not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def marks(lab: Lab) -> int:
    """Signs of life that an agent with clsact filters keeps in the namespace."""
    return lab.node.run(["cat", "/proc/net/unix"]).stdout.count("@retina_otel.")


def pins() -> set[str]:
    return {path.name for path in Path("/sys/fs/bpf").iterdir() if "foreign" not in path.name}


def mounts(lab: Lab) -> list[str]:
    """Mounts that have to do with the lab's namespaces."""
    return [line for line in Path("/proc/mounts").read_text().splitlines() if lab.tag in line]


@contextmanager
def foreign_on(lab: Lab, kind: str, folder: Path) -> Iterator[Foreign]:
    """Somebody else's program, which counts what web sends."""
    with foreign_programs(folder) as foreign:
        program = foreign.programs["foreign_pass"]
        if kind == "tcx":
            with add_tcx(lab, "veth-web", program):
                yield foreign
        else:
            lab.node.run(["tc", "qdisc", "add", "dev", "veth-web", "clsact"])
            add_filter(lab, "veth-web", program, 77)
            yield foreign


@dataclass(frozen=True, slots=True)
class Ending:
    numbers: list[signal.Signals]
    codes: set[int]


ENDINGS = {
    "in order": Ending([signal.SIGTERM], {0}),
    # Both wait for it when it goes on, so it gets the second before it could end by the first.
    "at once": Ending([signal.SIGSTOP, signal.SIGTERM, signal.SIGINT, signal.SIGCONT], {130, 143}),
    "killed": Ending([signal.SIGKILL], {-signal.SIGKILL}),
}


@pytest.mark.parametrize("foreign_kind", ["tcx", "clsact"])
@pytest.mark.parametrize("hook", ["tcx", "clsact"])
@pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS)
def test_nothing_is_left_and_others_see_every_packet(
    lab: Lab, tmp_path: Path, ending: Ending, hook: str, foreign_kind: str
) -> None:
    web, api = lab.pod("web"), lab.pod("api")
    folder = tmp_path / "agent"
    folder.mkdir()
    with (
        UdpServer(api, api.ipv4, 9),
        foreign_on(lab, foreign_kind, tmp_path) as foreign,
    ):
        before = (tc(lab), in_node(lab), pins(), mounts(lab), marks(lab))
        traffic.udp(web, (api.ipv4, 9), packets=101)
        assert foreign.seen == 101

        agent = agent_with(lab, folder, hook)
        held = Held.by(agent.process.pid)
        # Else this test shows nothing: three interfaces with two hooks each, and kfree_skb.
        assert held.count("link") == (7 if hook == "tcx" else 1)
        assert (ours(lab), len(held.children), marks(lab)) == (
            (0, 0, 0) if hook == "tcx" else (6, 1, 1)
        )
        traffic.udp(web, (api.ipv4, 9), packets=1009)
        assert foreign.seen == 1110

        for number in ending.numbers:
            agent.process.send_signal(number)
        assert agent.process.wait(GRACE_SECONDS) in ending.codes

        def after() -> tuple[list[str], set[int], set[str], list[str], int]:
            return (tc(lab), in_node(lab), pins(), mounts(lab), marks(lab))

        wait_until(lambda: after() == before, "the node as it was before", GRACE_SECONDS)
        wait_until(lambda: not held.still_there(), "an end of all objects", GRACE_SECONDS)
        assert not any(runs(pid) for pid in held.children)
        assert {path.name for path in folder.iterdir()} == {
            *("agent.yaml", "agent.log", "identity.yaml", "otlp.jsonl"),
        }
        traffic.udp(web, (api.ipv4, 9), packets=211)
        assert foreign.seen == 1321


FACTS = """
import time
import numpy as np
from retina_otel.model.namespaces import Tuples
from retina_otel.node.facts import NodeFacts
facts = NodeFacts(time.monotonic_ns, dict)
half, port, protocol = np.ones(1, np.uint64), np.ones(1, np.uint16), np.full(1, 6, np.uint8)
facts.namespaces.refresh()
facts.sockets.owners(protocol, half, half, port)
facts.translations.backends(Tuples(protocol, half, half, port, half, half, port))
print(facts.sockets.unavailable or "asked", flush=True)
time.sleep(3600)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_of_what_the_node_was_asked_nothing_is_left(lab: Lab, number: signal.Signals) -> None:
    """A program at each socket that is closed on the machine, and one that looks at processes."""
    before = pins()
    ours, theirs = os.pipe()
    with open(ours) as said:
        process = lab.node.popen([sys.executable, "-c", FACTS], stdout=theirs)
        os.close(theirs)
        assert said.readline() == "asked\n"
    held = Held.by(process.pid)
    assert (held.count("link"), held.count("prog")) == (1, 2)

    process.send_signal(number)
    assert process.wait(GRACE_SECONDS) == -number

    wait_until(lambda: not held.still_there(), "an end of all objects", GRACE_SECONDS)
    assert pins() == before


@pytest.mark.parametrize("next_hook", ["tcx", "clsact"])
def test_the_next_agent_removes_what_is_left_when_the_reaper_was_killed_too(
    lab: Lab, tmp_path: Path, next_hook: str
) -> None:
    web, api = lab.pod("web"), lab.pod("api")
    with (
        UdpServer(api, api.ipv4, 9),
        foreign_on(lab, "clsact", tmp_path) as foreign,
    ):
        before = tc(lab)
        agent = agent_with(lab, tmp_path, "clsact")
        held = Held.by(agent.process.pid)
        (reaper,) = held.children
        os.kill(reaper, signal.SIGKILL)
        agent.kill()
        wait_until(lambda: not in_node(lab) - {reaper}, "an empty node", GRACE_SECONDS)
        assert ours(lab) == 6

        agent = agent_with(lab, tmp_path, next_hook)
        assert ours(lab) == (0 if next_hook == "tcx" else 6)
        wait_until(lambda: not held.still_there(), "an end of all objects", GRACE_SECONDS)
        traffic.udp(web, (api.ipv4, 9), packets=1009)
        assert agent.stop() == 0
        assert "removed 6 filters that a killed agent had left" in agent.log()
        assert tc(lab) == before
        traffic.udp(web, (api.ipv4, 9), packets=11)
        assert foreign.seen == 1020
