"""The walk over the node's processes: whom it finds, and with what rights."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from retina_otel.kernel.net import netns

PROGRAM = """
import json
from retina_otel.node.looks import Looks
looks = Looks()
look = looks.take(sockets=True)
print(json.dumps([looks.unavailable, look and sorted({group.netns for group in look.groups})]))
"""


def looked(*wrapper: str) -> tuple[str, list[int] | None]:
    """Why nothing could be seen, and the namespaces that were."""
    done = subprocess.run(
        [*wrapper, sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    unavailable, found = json.loads(done.stdout)
    return unavailable, found


def capabilities(*names: str) -> list[str]:
    kept = ",".join(["-all", *(f"+{name}" for name in names)])
    return ["setpriv", f"--inh-caps={kept}", f"--bounding-set={kept}"]


@pytest.mark.kernels
@pytest.mark.parametrize(
    "wrapper",
    [
        [],
        capabilities("bpf", "perfmon"),
        ["unshare", "--pid", "--fork", "--mount-proc"],
        ["unshare", "--cgroup"],
    ],
    ids=["root", "bpf and perfmon", "other pid namespace", "other cgroup namespace"],
)
def test_processes_of_all_namespaces_are_seen(namespace, wrapper):
    sleeper = subprocess.Popen(
        ["nsenter", f"--net={namespace.path}", "--", "sh", "-c", "echo in; exec sleep 60"],
        stdout=subprocess.PIPE,
    )
    assert sleeper.stdout is not None
    with sleeper.stdout as said:
        said.readline()
    unavailable, found = looked(*wrapper)
    sleeper.kill()
    sleeper.wait()

    assert unavailable == ""
    assert found is not None
    assert {netns.inode(namespace.path), netns.own_inode()} <= set(found)


@pytest.mark.parametrize(
    ("kept", "named"), [(["bpf"], "CAP_PERFMON"), (["perfmon"], "CAP_BPF"), ([], "CAP_BPF")]
)
def test_without_a_right_it_says_which(kept, named):
    unavailable, found = looked(*capabilities(*kept))
    assert found is None
    assert unavailable.startswith("the node's processes can't be looked at: ")
    assert named in unavailable
    assert "\n" not in unavailable


SOCKETS = """
import time
import numpy as np
from retina_otel.node.facts import NodeFacts
facts = NodeFacts(time.monotonic_ns, dict)
none = np.zeros(1, np.uint64)
print(facts.sockets.owners(none.astype(np.uint8), none, none, none.astype(np.uint16)).tolist())
print(facts.sockets.unavailable)
"""


def unavailable_sockets(*wrapper: str) -> str:
    done = subprocess.run(
        [*wrapper, sys.executable, "-c", SOCKETS], capture_output=True, text=True, check=True
    )
    answer, unavailable = done.stdout.split("\n", 1)
    assert answer == "[-1]"
    return unavailable.strip()


@pytest.mark.kernels
def test_sockets_need_three_rights():
    assert unavailable_sockets(*capabilities("bpf", "perfmon", "net_admin")) == ""


@pytest.mark.parametrize(
    ("wrapper", "told"),
    [
        (capabilities("bpf", "perfmon"), "Give the process CAP_NET_ADMIN"),
        (["unshare", "--mount", "sh", "-c", 'umount -l -t cgroup2 -a; exec "$@"', "sh"], "Mount"),
    ],
    ids=["no CAP_NET_ADMIN", "no cgroup2"],
)
def test_what_hides_closed_sockets_is_told(wrapper, told):
    unavailable = unavailable_sockets(*wrapper)
    assert unavailable.startswith("sockets closed between two looks are not seen: ")
    assert told in unavailable
