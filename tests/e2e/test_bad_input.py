"""What a person can do wrong, and what a machine can lack: one clear line, an exit code, no
traceback; or an agent that goes on with less and says so.

The command is the real one. Files that are missing or damaged are so in a mount namespace of the
command's own, capabilities are taken from it: what it meets is what the kernel really does.
"""

from __future__ import annotations

import platform
import re
import socket
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import retina_otel
from retina_otel.testing.backends import free_ports
from retina_otel.testing.lab import Lab
from tests.e2e.agent import COMMAND, Agent, wait_until

OBJECTS = Path(retina_otel.__file__).parent / "_bpf" / platform.machine()
BTF = Path("/sys/kernel/btf")
BPFFS = Path("/sys/fs/bpf")
USAGE, CONFIG, KERNEL, FAILURE = 2, 3, 4, 1


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab("shop/web") as made:
        yield made


def run(*arguments: str, around: Sequence[str] = (), code: int) -> list[str]:
    """The lines of the command's standard error; it must end with this code."""
    done = subprocess.run(
        [*around, COMMAND, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert done.returncode == code, done.stderr
    return done.stderr.splitlines()


def refused(*arguments: str, around: Sequence[str] = (), code: int) -> str:
    """The error that the command ends with, which is all that it says but for its log's info."""
    said = run(*arguments, around=around, code=code)
    (line,) = (line for line in said if not re.match(r"[\d:.]+ info ", line))
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


def write(path: Path, *, receivers: str = "interfaces: {}", exporter: str = "debug: {}") -> Path:
    """A configuration of these receivers, one exporter and a health endpoint, all in one line a
    section."""
    names = ", ".join(part.partition(":")[0].strip() for part in receivers.split(", "))
    to = exporter.partition(":")[0]
    (port,) = free_ports(1)
    path.write_text(
        f"extensions: {{health_check: {{endpoint: '127.0.0.1:{port}'}}}}\n"
        f"receivers: {{{receivers}}}\n"
        f"exporters: {{{exporter}}}\n"
        "service:\n"
        "  interval: 200ms\n"
        "  extensions: [health_check]\n"
        "  telemetry: {metrics: {interval: 200ms}}\n"
        "  pipelines:\n"
        f"    metrics: {{receivers: [{names}], exporters: [{to}]}}\n"
    )
    return path


def health_port(config: Path) -> int:
    return int(config.read_text().split("127.0.0.1:")[1].split("'")[0])


def without(*capabilities: str) -> list[str]:
    """Runs a command as root that has all capabilities but these, and can't get them."""
    lost = ",".join(f"-{name}" for name in capabilities)
    return ["setpriv", f"--bounding-set={lost}", f"--inh-caps={lost}", "--"]


def with_mounts(*pairs: tuple[Path, Path]) -> list[str]:
    """Runs a command for which the second of each pair is what the first is."""
    mounts = " && ".join(f"mount --bind '{source}' '{target}'" for source, target in pairs)
    return ["unshare", "--mount", "sh", "-c", f'{mounts} && exec "$@"', "sh"]


def in_node(lab: Lab, around: Sequence[str] = ()) -> list[str]:
    return ["nsenter", f"--net={lab.node.path}", "--", *around]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "agent.yaml"


# The configuration


@pytest.mark.parametrize("command", ["agent", "validate"])
@pytest.mark.parametrize(
    ("receivers", "said"),
    [
        (
            "flows: {max_flow: 1000}",
            "receivers.flows.max_flow: unknown key ({config}:2). "
            "Did you mean 'receivers.flows.max_flows'?",
        ),
        (
            "flows: {max_flows: many}",
            "receivers.flows.max_flows: 'many' given, expected a valid integer, "
            "unable to parse string as an integer ({config}:2)",
        ),
        (
            "flow: {}",
            "receivers.flow: there is no receiver of type 'flow' ({config}:2). "
            "Did you mean 'flows'?",
        ),
        (
            "flows: {max_flows: '${env:NO_SUCH_LIMIT}'}",
            "receivers.flows.max_flows: {config}:2: environment variable NO_SUCH_LIMIT is not set. "
            "Set NO_SUCH_LIMIT, or give a default: ${env:NO_SUCH_LIMIT:-value}.",
        ),
        (
            "flows: {max_flows: ${env:NO_SUCH_LIMIT}}",
            "{config} is not valid YAML: line 2, column 33: expected ',' or '}', but got '{'. "
            "Inside { } or [ ], put quotes around ${env:NAME}.",
        ),
    ],
)
def test_what_is_wrong_in_a_file_is_told_by_key_and_line(
    config: Path, command: str, receivers: str, said: str
) -> None:
    write(config, receivers=receivers)
    line = refused(command, "--config", str(config), code=CONFIG)
    assert line == said.replace("{config}", str(config))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "service: required, but not set ({config}). Set service."),
        (b"7", "{config} holds a number, expected a mapping. Its keys are "
         "receivers, processors, exporters, extensions and service."),
        (b"\xff\xfe\x00", "{config} is not UTF-8 text. Save it as UTF-8."),
        (b"a: [1\n", "{config} is not valid YAML: line 2, column 1: expected ',' or ']', but got "
         "'<stream end>'. Check indentation and quotes there."),
        (b"[" * 5000, "{config} is nested too deeply. Flatten it."),
    ],
    ids=["empty", "a number", "not text", "not YAML", "nested"],
)  # fmt: skip
def test_a_file_that_is_no_configuration_is_told_as_such(
    config: Path, content: bytes, said: str
) -> None:
    config.write_bytes(content)
    line = refused("agent", "--config", str(config), code=CONFIG)
    assert line == said.replace("{config}", str(config))


def test_a_file_that_cannot_be_read_is_named(config: Path, tmp_path: Path) -> None:
    remedy = "Check the path and its permissions."
    line = refused("agent", "--config", str(config), code=CONFIG)
    assert line == f"{config} can't be read: no such file or directory. {remedy}"
    line = refused("agent", "--config", str(tmp_path), code=CONFIG)
    assert line == f"{tmp_path} can't be read: is a directory. {remedy}"
    write(config).chmod(0)
    around = without("dac_override", "dac_read_search")
    line = refused("agent", "--config", str(config), around=around, code=CONFIG)
    assert line == f"{config} can't be read: permission denied. {remedy}"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["agnet"], "Error: No such command 'agnet'. Did you mean 'agent'?"),
        (["agent", "--confg", "x"], "Error: No such option '--confg'. Did you mean '--config'?"),
        (["demo", "--duration", "soon"], "Error: --duration: 'soon' is not a duration: "
         'write number and unit, as "15s" or "500ms"'),
        (["version", "now"], "Error: Got unexpected extra argument (now)"),
    ],
)  # fmt: skip
def test_a_wrong_command_line_gets_the_nearest_name(arguments: list[str], said: str) -> None:
    assert run(*arguments, code=USAGE)[-1] == said


@pytest.mark.parametrize("command", ["schema", "version", "components", "--help"])
def test_output_that_cannot_be_written_is_one_line(command: str) -> None:
    line = refused(command, around=["sh", "-c", '"$@" > /dev/full', "sh"], code=FAILURE)
    assert line == ("No space left on device. `retina-otel --verbose COMMAND` shows what failed.")


def test_an_unforeseen_error_is_one_line_and_a_traceback_only_when_asked_for() -> None:
    # A descriptor that is no terminal, no file and no pipe to write to: stdout closed for writing.
    around = ["sh", "-c", '"$@" 1< /dev/null', "sh"]
    line = refused("schema", around=around, code=FAILURE)
    assert line == "Bad file descriptor. `retina-otel --verbose COMMAND` shows what failed."
    done = subprocess.run(
        [*around, COMMAND, "--verbose", "schema"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr.startswith("Traceback")) == (FAILURE, True)


# The surroundings


@pytest.mark.parametrize(
    ("kind", "key"),
    [("prometheus", "exporters.prometheus"), ("health_check", "extensions.health_check")],
)
def test_a_port_in_use_ends_the_start(config: Path, kind: str, key: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        exporter = f"prometheus: {{endpoint: '{address}'}}" if kind == "prometheus" else "debug: {}"
        write(config, exporter=exporter)
        if kind == "health_check":
            old = f"127.0.0.1:{health_port(config)}"
            config.write_text(config.read_text().replace(old, address))
        line = refused("agent", "--config", str(config), code=CONFIG)
    assert line == (
        f"{address} can't be listened on: Address already in use. Stop what listens there "
        f"(`ss -ltnp` names it), or set another endpoint: {key}.endpoint"
    )


def test_an_address_that_is_not_here_is_not_blamed_on_others(config: Path) -> None:
    write(config, exporter="prometheus: {endpoint: '192.0.2.1:9090'}")
    line = refused("agent", "--config", str(config), code=CONFIG)
    assert line == (
        "192.0.2.1:9090 can't be listened on: Cannot assign requested address. "
        "No interface here has that address: set another endpoint: exporters.prometheus.endpoint"
    )


def test_an_endpoint_that_nobody_listens_on_is_said_once_and_counted(
    lab: Lab, config: Path
) -> None:
    (port,) = free_ports(1)
    endpoint = f"http://127.0.0.1:{port}"
    exporter = (
        f"otlp_http: {{endpoint: '{endpoint}', interval: 200ms, "
        "retry_on_failure: {initial_interval: 50ms, max_interval: 100ms}}"
    )
    write(config, exporter=exporter)
    agent = Agent(lab.node, config)
    agent.start()

    def failures() -> int:
        ledger = agent.health(health_port(config))["ledgers"]["exporter/otlp_http"]
        points = ledger["exports"].get("points", {"request_failures": {}})
        return int(points["request_failures"].get("connection_refused", 0))

    wait_until(lambda: failures() > 3, "a fourth failure")
    shown = agent.health(health_port(config))["components"]["exporters"]["otlp_http"]
    assert shown["state"] == "degraded"
    assert shown["reason"] == (
        f"{endpoint}/v1/metrics: connection refused. "
        "Check that a backend listens there and that the endpoint's port is right"
    )
    assert agent.stop() == 0
    assert agent.log().count("connection refused") == 1
    assert "Traceback" not in agent.log()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "{path} can't be read: No such file or directory. "
         "Check `path` of the static_identity extension"),
        (b"pods: 7", "{path}: pods: a list is expected. Correct the file"),
        (b"\xff\xfe\x00", "{path} can't be read: it is not UTF-8 text. "
         "Check `path` of the static_identity extension"),
    ],
    ids=["missing", "wrong type", "not text"],
)  # fmt: skip
def test_an_identity_file_that_cannot_be_used_ends_the_start(
    config: Path, content: bytes | None, said: str
) -> None:
    path = config.with_name("identity.yaml")
    if content is not None:
        path.write_bytes(content)
    text = write(config).read_text()
    text = text.replace("extensions: {", f"extensions: {{static_identity: {{path: {path}}}, ")
    config.write_text(text.replace("extensions: [", "extensions: [static_identity, "))
    line = refused("agent", "--config", str(config), code=CONFIG)
    assert line == said.format(path=path)


def test_an_identity_file_that_goes_bad_later_leaves_what_was_known(lab: Lab, config: Path) -> None:
    path = lab.write_identity(config.with_name("identity.yaml"))
    text = write(config).read_text()
    settings = f"extensions: {{static_identity: {{path: {path}, check_interval: 50ms}}, "
    text = text.replace("extensions: {", settings)
    config.write_text(text.replace("extensions: [", "extensions: [static_identity, "))
    agent = Agent(lab.node, config)
    agent.start()

    def shown() -> dict[str, str]:
        components = agent.health(health_port(config))["components"]
        found: dict[str, str] = components["extensions"]["static_identity"]
        return found

    path.write_text("pods: 7")
    wait_until(lambda: shown()["state"] == "degraded", "a degraded extension")
    assert shown()["reason"] == (
        f"what was known before stays: {path}: pods: a list is expected. Correct the file"
    )
    lab.write_identity(path)
    wait_until(lambda: shown()["state"] == "running", "a running extension")
    assert agent.stop() == 0
    assert agent.log().count("Correct the file") == 1


def test_a_full_disk_degrades_the_exporter_that_writes_there(lab: Lab, config: Path) -> None:
    disk = config.with_name("disk")
    disk.mkdir()
    mount = f"mount -t tmpfs -o size=8k none '{disk}' && exec \"$@\""
    write(config, exporter=f"file: {{path: {disk}/otlp.jsonl, interval: 200ms}}")
    agent = Agent(lab.node, config, ["unshare", "--mount", "sh", "-c", mount, "sh"])
    agent.start()

    def shown() -> dict[str, str]:
        components = agent.health(health_port(config))["components"]
        found: dict[str, str] = components["exporters"]["file"]
        return found

    wait_until(lambda: shown()["state"] == "degraded", "a degraded exporter")
    assert shown()["reason"] == (
        f"{disk}/otlp.jsonl can't be written: No space left on device. "
        "Make room there, or set a smaller rotation"
    )
    assert agent.stop() == 0
    assert agent.log().count("No space left") == 1
    assert "Traceback" not in agent.log()


# The kernel, and what it lets us do

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


def started(lab: Lab, config: Path, around: Sequence[str]) -> Agent:
    """An agent with all receivers, which has said what runs."""
    write(config, receivers="interfaces: {}, drops: {}, flows: {}")
    agent = Agent(lab.node, config, around)
    agent.start()
    return agent


def states(agent: Agent, config: Path) -> dict[str, tuple[str, str]]:
    """State and reason of each receiver, as the health endpoint tells them."""
    receivers = agent.health(health_port(config))["components"]["receivers"]
    return {name: (one["state"], one.get("reason", "")) for name, one in receivers.items()}
