"""What is around an agent fails it: ports, backends, identity files, disks. It ends with one clear
line, or goes on with less and says so."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from retina_otel.testing.backends import free_ports
from retina_otel.testing.lab import Lab
from tests.e2e.agent import Agent, wait_until
from tests.e2e.command_runs import CONFIG, health_port, refused, write


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab("shop/web") as made:
        yield made


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "agent.yaml"


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
