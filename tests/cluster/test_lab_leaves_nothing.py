"""A cluster has no part in the machine's network and mounts, and nothing of it stays, also after
a kill."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from retina_otel.testing import cgroups

CLUSTER = """
import sys
from retina_otel.testing.cluster import WORKLOADS, Cluster
with Cluster() as cluster:
    cluster.apply(WORKLOADS)
    for app in ("web", "collector", "host-web"):
        cluster.wait_for_pods("shop", f"app={app}", 2 if app == "web" else 1)
    print(cluster.ground.tag, flush=True)
    sys.stdin.read()
"""
END_SECONDS = 30


def machine() -> dict[str, object]:
    """The machine's own links, routes, rules and mounts, but for named network namespaces."""

    def say(*argv: str) -> str:
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout

    mounts = Path("/proc/self/mounts").read_text().splitlines()
    return {
        "links": sorted(link["ifname"] for link in json.loads(say("ip", "-j", "link"))),
        "routes": say("ip", "route") + say("ip", "-6", "route"),
        "rules": re.sub(r"packets \d+ bytes \d+", "", say("nft", "list", "ruleset")),
        "mounts": sorted({line for line in mounts if " /run/netns" not in line}),
        "forwarding": say("sysctl", "net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"),
    }


def ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def remains(tag: str) -> dict[str, list[str]]:
    """What there is of a cluster, by its tag."""
    name = f"rt-{tag}"
    processes = cgroups.processes(tag)
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                spoken = (entry / "cmdline").read_text() + (entry / "cgroup").read_text()
            except OSError:
                continue
            processes |= {int(entry.name)} if name in spoken else set()
    # What has ended and waits for init to take notice is no cluster's any more.
    processes = {one for one in processes if not ended(one)}
    return {
        "namespaces": [each.name for each in Path("/run/netns").glob(f"{name}-*")],
        "records": [str(each) for each in Path("/run").glob(f"{name}*")],
        "folders": [str(each) for each in Path("/tmp").glob(f"{name}*")],
        "cgroups": [str(root) for root in cgroups.hierarchies() if (root / name).exists()],
        "mounts": [m for m in Path("/proc/self/mounts").read_text().splitlines() if name in m],
        "processes": [str(each) for each in processes],
    }


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + END_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("how", ["ended", "killed"])
def test_nothing_of_a_cluster_stays(how: str) -> None:
    before = machine()
    with subprocess.Popen(
        [sys.executable, "-c", CLUSTER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as owner:
        assert owner.stdout is not None
        tag = owner.stdout.readline().strip()
        assert tag
        running = remains(tag)
        assert {kind for kind, found in running.items() if found} == {
            "namespaces",
            "records",
            "folders",
            "cgroups",
            "mounts",
            "processes",
        }
        assert machine() == before

        if how == "killed":
            os.kill(owner.pid, signal.SIGKILL)
        owner.communicate()

    # After a kill its reaper removes it, the owner's record last.
    wait_until(lambda: not Path(f"/run/rt-{tag}.lab").exists())
    assert remains(tag) == {kind: [] for kind in running}
    assert machine() == before


def test_a_start_removes_what_a_killed_owner_and_its_killed_reaper_left() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", CLUSTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        tag = owner.stdout.readline().strip()
        children = Path(f"/proc/{owner.pid}/task/{owner.pid}/children").read_text().split()
        (reaper,) = (
            int(child)
            for child in children
            if "retina_otel.testing.reaper" in Path(f"/proc/{child}/cmdline").read_text()
        )
        os.kill(reaper, signal.SIGKILL)
        os.kill(owner.pid, signal.SIGKILL)
        owner.communicate()
    left = remains(tag)
    assert left["processes"] != []

    removal = "from retina_otel.testing.namespaces import remove_strays; remove_strays()"
    subprocess.run([sys.executable, "-c", removal], check=True)

    assert remains(tag) == {kind: [] for kind in left}
