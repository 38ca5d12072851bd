"""What the kernel lacks or does not let us do: capabilities, BTF, BPF objects. The agent ends with
one clear line, or goes on with less and says so.

Files that are missing or damaged are so in a mount namespace of the command's own, capabilities are
taken from it: what it meets is what the kernel really does.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from pathlib import Path

import pytest

from retina_otel.testing.lab import Lab
from tests.e2e.command_runs import (
    BPFFS,
    BTF,
    KERNEL,
    OBJECTS,
    in_node,
    refused,
    started,
    states,
    with_mounts,
    without,
    write,
)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab("shop/web") as made:
        yield made


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "agent.yaml"


LOAD = "bpf_object__load: {error}: {name}.bpf.o"
EPERM, EACCES = "EPERM (Operation not permitted)", "EACCES (Permission denied)"


@pytest.mark.parametrize(
    ("lost", "flows"),
    [(["bpf"], EPERM), (["perfmon"], EACCES), (["bpf", "perfmon", "net_admin"], EPERM)],
    ids=lambda value: "+".join(value) if isinstance(value, list) else "",
)
def test_without_a_capability_that_all_need_the_agent_ends_and_names_it(
    lab: Lab, config: Path, lost: list[str], flows: str
) -> None:
    write(config, receivers="drops: {}, flows: {}")
    around = in_node(lab, without("sys_admin", *lost))
    line = refused("agent", "--config", str(config), around=around, code=KERNEL)
    names = [f"CAP_{name.upper()}" for name in lost]
    assert line == (
        f"no receiver can run: drops: {LOAD.format(error=EPERM, name='drops')}; "
        f"flows: {LOAD.format(error=flows, name='flows')}. Give the process "
        f"{', '.join(names[:-1])}{' and ' if len(names) > 1 else ''}{names[-1]}"
    )


def test_without_cap_net_admin_only_flows_is_off(lab: Lab, config: Path) -> None:
    agent = started(lab, config, without("sys_admin", "net_admin"))
    reason = f"{LOAD.format(error=EPERM, name='flows')}. Give the process CAP_NET_ADMIN"
    assert states(agent, config) == {
        "interfaces": ("running", ""),
        "drops": ("running", ""),
        "flows": ("failed", reason),
    }
    assert agent.stop() == 0
    assert agent.log().count(reason) == 1


def test_cap_sys_admin_is_not_needed(lab: Lab, config: Path) -> None:
    agent = started(lab, config, without("sys_admin"))
    assert {state for state, _ in states(agent, config).values()} == {"running"}
    assert agent.stop() == 0


def test_anybody_may_read_interfaces(lab: Lab, config: Path) -> None:
    agent = started(lab, config, ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--"])
    found = states(agent, config)
    remedy = "Give the process CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN"
    assert {name: state for name, (state, _) in found.items()} == {
        "interfaces": "running",
        "drops": "failed",
        "flows": "failed",
    }
    assert found["drops"][1] == f"{LOAD.format(error=EPERM, name='drops')}. {remedy}"
    assert agent.stop() == 0
    assert "Traceback" not in agent.log()


def test_in_a_user_namespace_the_capabilities_are_not_said_to_be_missing(config: Path) -> None:
    write(config, receivers="drops: {}")
    around = ["unshare", "--user", "--map-root-user", "--net", "--"]
    line = refused("agent", "--config", str(config), around=around, code=KERNEL)
    assert line == (
        f"no receiver can run: drops: {LOAD.format(error=EPERM, name='drops')}. "
        "The process has the capabilities, so something else forbids bpf(2): "
        "look for a seccomp profile, a user namespace or kernel lockdown"
    )


def test_without_root_the_demo_says_so() -> None:
    around = ["unshare", "--user", "--"]
    line = refused("demo", "--duration", "1s", around=around, code=KERNEL)
    assert line == (
        "demo: EPERM (Operation not permitted): it needs root, for network namespaces and BPF. "
        "Run it as root, or with sudo"
    )


def test_without_btf_drops_is_off_and_flows_counts(lab: Lab, config: Path, tmp_path: Path) -> None:
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    agent = started(lab, config, with_mounts((nothing, BTF)))
    reason = (
        "btf__load_vmlinux_btf: ENOENT (No such file or directory). "
        "Use a kernel built with CONFIG_DEBUG_INFO_BTF (it has /sys/kernel/btf/vmlinux)"
    )
    assert states(agent, config) == {
        "interfaces": ("running", ""),
        "drops": ("failed", reason),
        "flows": ("running", ""),
    }
    assert agent.stop() == 0
    assert agent.log().count(reason) == 1


@pytest.mark.parametrize("kind", ["missing", "empty"])
def test_without_btf_an_agent_of_drops_alone_ends(
    lab: Lab, config: Path, tmp_path: Path, kind: str
) -> None:
    write(config, receivers="drops: {}")
    nothing = tmp_path / "nothing"
    nothing.mkdir() if kind == "missing" else nothing.touch()
    place = BTF if kind == "missing" else BTF / "vmlinux"
    around = in_node(lab, with_mounts((nothing, place)))
    line = refused("agent", "--config", str(config), around=around, code=KERNEL)
    assert line == (
        "no receiver can run: drops: btf__load_vmlinux_btf: ENOENT (No such file or directory). "
        "Use a kernel built with CONFIG_DEBUG_INFO_BTF (it has /sys/kernel/btf/vmlinux)"
    )


def test_bpffs_is_not_needed(lab: Lab, config: Path, tmp_path: Path) -> None:
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    agent = started(lab, config, with_mounts((nothing, BPFFS)))
    assert {state for state, _ in states(agent, config).values()} == {"running"}
    assert agent.stop() == 0


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("cut", "bpf_object__open_file: ENOEXEC (Exec format error): {path}. "
         "The file is damaged: install the package again (in a clone: make objects)"),
        ("noise", "bpf_object__open_file: ENOEXEC (Exec format error): {path}. "
         "The file is damaged: install the package again (in a clone: make objects)"),
        ("another", "constant: ENOENT (No such file or directory): flows.bpf.o has no "
         "cfg_slot_bits. Rebuild the BPF objects (make objects): they do not match this version"),
        ("none", "open: ENOENT (No such file or directory): flows.bpf.o for {machine}. "
         "Build the BPF objects (make objects), or install a wheel for this architecture"),
    ],
)  # fmt: skip
def test_a_damaged_object_ends_the_agent_that_has_no_other(
    lab: Lab, config: Path, tmp_path: Path, damage: str, said: str
) -> None:
    path = OBJECTS / "flows.bpf.o"
    if damage == "none":
        source, target = tmp_path / "nothing", OBJECTS
        source.mkdir()
    elif damage == "another":
        source, target = OBJECTS / "drops.bpf.o", path
    else:
        source, target = tmp_path / "damaged", path
        content = path.read_bytes()
        source.write_bytes(content[:3000] if damage == "cut" else content[:3000][::-1])
    write(config, receivers="flows: {}")
    around = in_node(lab, with_mounts((source, target)))
    line = refused("agent", "--config", str(config), around=around, code=KERNEL)
    said = said.format(path=path, machine=platform.machine())
    assert line == f"no receiver can run: flows: {said}"
