"""Runs of the real command with something wrong or missing around it, and what it says of that."""

from __future__ import annotations

import platform
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import retina_otel
from retina_otel.testing.backends import free_ports
from retina_otel.testing.lab import Lab
from tests.e2e.agent import COMMAND, Agent

OBJECTS = Path(retina_otel.__file__).parent / "_bpf" / platform.machine()
BTF = Path("/sys/kernel/btf")
BPFFS = Path("/sys/fs/bpf")
USAGE, CONFIG, KERNEL, FAILURE = 2, 3, 4, 1


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
