"""azure_monitor before anything is sent: connection strings, extras, identities, nobody called."""

from __future__ import annotations

import builtins
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from retina_otel.cli.exit_codes import ExitCode
from retina_otel.errors import ConfigError
from retina_otel.exporters.azure_monitor import AzureMonitorExporter, AzureMonitorSettings
from retina_otel.exporters.azure_monitor.connection_string import parse
from retina_otel.testing.exporters import Bench

KEY = "0f0f0f0f-1111-2222-3333-abcdefabcdef"
WHOLE = f"InstrumentationKey={KEY};IngestionEndpoint=https://westeurope-5.in.example.com/"


def made(
    connection_string: str | None = WHOLE,
    variables: Mapping[str, str] | None = None,
    **settings: Any,
) -> AzureMonitorExporter:
    if connection_string is not None:
        settings["connection_string"] = connection_string
    chosen = AzureMonitorSettings.model_validate(settings)
    return AzureMonitorExporter(chosen, Bench().context(), variables or {})


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        (WHOLE, "https://westeurope-5.in.example.com"),
        (
            f" {WHOLE} ; LiveEndpoint=https://live.example.com/;",
            "https://westeurope-5.in.example.com",
        ),
        (f"instrumentationkey={KEY.upper()}", "https://dc.services.visualstudio.com"),
        (f"InstrumentationKey={KEY};EndpointSuffix=example.cn", "https://dc.example.cn"),
        (f"InstrumentationKey={KEY};EndpointSuffix=a.us;Location=eu", "https://eu.dc.a.us"),
    ],
)
def test_a_connection_string_says_where_to_send(text: str, endpoint: str) -> None:
    target = parse(text, "it")
    assert (target.endpoint, target.instrumentation_key) == (endpoint, KEY)
    assert KEY not in repr(target)
    assert f"IngestionEndpoint={endpoint}" in target.text()


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "no InstrumentationKey"),
        (KEY, "no name=value pair"),
        (f"InstrumentationKey={KEY[:-1]}", "no UUID"),
        (f"InstrumentationKey={KEY}x;IngestionEndpoint=http://127.0.0.1", "no UUID"),
        ("IngestionEndpoint=http://127.0.0.1", "no InstrumentationKey"),
        (f"InstrumentationKey={KEY};IngestionEndpoint=ftp://host", "no http or https URL"),
        (f"InstrumentationKey={KEY};IngestionEndpoint=http://host:99999", "valid host and port"),
        (f"InstrumentationKey={KEY};IngestionEndpoint=https://[", "valid host and port"),
        (f"InstrumentationKey={KEY};IngestionEndpoint=https://a b", "valid host and port"),
        (f"InstrumentationKey={KEY};IngestionEndpoint=https://a\nb", "valid host and port"),
        (f"InstrumentationKey={KEY};IngestionEndpoint=http://u:p@host", "host and port alone"),
        (f"InstrumentationKey={KEY};IngestionEndpoint=http://host/?key=v", "host and port alone"),
        (f"InstrumentationKey={KEY};Authorization=aad", "not ikey"),
    ],
)
def test_a_wrong_connection_string_is_refused_without_being_shown(text: str, fault: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(text, "it")
    said = str(error.value)
    assert fault in said
    assert "portal" in said
    assert KEY[:-1] not in said
    with pytest.raises(ValidationError, match=fault) as refused:
        made(text)
    assert KEY[:-1] not in str(refused.value)


@pytest.mark.parametrize("key", [KEY, KEY[:-1]])
def test_the_command_line_refuses_it_without_showing_it(tmp_path: Path, key: str) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text(
        "receivers: {interfaces: {}}\n"
        f"exporters: {{azure_monitor: {{connection_string: 'InstrumentationKey={key};x'}}}}\n"
        "service: {pipelines: {metrics: {receivers: [interfaces], exporters: [azure_monitor]}}}\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "retina_otel", "validate", "--config", str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == ExitCode.CONFIG
    assert "exporters.azure_monitor.connection_string: a value that is not shown" in done.stderr
    assert KEY[:-1] not in done.stdout + done.stderr


def test_the_environment_names_the_connection_string_where_settings_do_not() -> None:
    variable = "APPLICATIONINSIGHTS_CONNECTION_STRING"
    made(None, {variable: WHOLE})
    with pytest.raises(ConfigError, match=f"{variable} has no InstrumentationKey"):
        made(None, {variable: "IngestionEndpoint=http://127.0.0.1"})
    with pytest.raises(
        ConfigError, match=f"connection_string: there is none. Set it, or {variable}"
    ):
        made(None)


def test_the_environment_adds_nothing_to_the_connection_string_of_the_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else data with one resource's key would go to another one's endpoint."""
    monkeypatch.setenv(
        "APPLICATIONINSIGHTS_CONNECTION_STRING",
        f"InstrumentationKey={KEY[::-1]};IngestionEndpoint=http://127.0.0.1:9;AADAudience=x",
    )
    from azure.monitor.opentelemetry.exporter import AzureMonitorMetricExporter

    from retina_otel.exporters.azure_monitor.sdk import Transport, quiet

    class Nowhere(Transport):
        def send(self, request: Any, **options: Any) -> Any:
            self.url = request.url
            raise ConnectionAbortedError

    nowhere = Nowhere()
    client = quiet(AzureMonitorMetricExporter, parse(f"InstrumentationKey={KEY}", ""), nowhere)
    with pytest.raises(ConnectionAbortedError):
        client.client.track(b"[]")  # type: ignore[call-overload]
    assert nowhere.url == "https://dc.services.visualstudio.com/v2.1/track"


def test_a_broken_connection_string_of_the_environment_is_told_as_such(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("APPLICATIONINSIGHTS_CONNECTION_STRING", f"{KEY};;=")
    with pytest.raises(ConfigError, match="Unset APPLICATIONINSIGHTS_CONNECTION_STRING") as error:
        made(WHOLE)
    assert KEY not in str(error.value)


@pytest.mark.parametrize(
    ("missing", "settings"),
    [("azure.monitor", {}), ("azure", {"auth": {"azure_ad": {}}})],
)
def test_without_the_extra_its_name_is_told(
    monkeypatch: pytest.MonkeyPatch, missing: str, settings: dict[str, Any]
) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **options: Any) -> Any:
        if name == missing or name.startswith(f"{missing}."):
            raise ImportError(f"No module named {name!r}")
        return real(name, *rest, **options)

    for name in [name for name in sys.modules if name.startswith("retina_otel.exporters.azure_")]:
        if name.endswith((".ingestion", ".templates", ".sdk")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"Install retina-otel\[azure\]"):
        made(**settings)


def test_a_workload_identity_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AZURE_CLIENT_ID", "AZURE_TENANT_ID", "AZURE_FEDERATED_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match="Label the pod"):
        made(auth={"azure_ad": {"identity": "workload_identity"}})


def test_settings_do_not_show_the_connection_string() -> None:
    settings = AzureMonitorSettings.model_validate({"connection_string": WHOLE})
    assert KEY not in repr(settings) + settings.model_dump_json()


WATCHED = """
import sys

seen = set()

def watch(event, arguments):
    if event in {"socket.connect", "socket.sendto", "socket.sendmsg"}:
        seen.add(arguments[1])
        if arguments[1][0] != "127.0.0.1":
            raise ConnectionRefusedError(111, "only loopback")
    if event == "socket.getaddrinfo":
        seen.add(arguments[:2])

sys.addaudithook(watch)

from retina_otel.exporters.azure_monitor import AzureMonitorExporter, AzureMonitorSettings
from retina_otel.testing.application_insights import Answer, ApplicationInsights
from retina_otel.testing.exporters import Bench, Source

with ApplicationInsights() as azure:
    settings = AzureMonitorSettings.model_validate({
        "connection_string": azure.connection_string, "interval": "50ms", "events_interval": "20ms",
    })
    bench, source = Bench(), Source()
    exporter = AzureMonitorExporter(settings, bench.context(), {})
    reader = source.accumulator.reader("t", temporality=exporter.temporality)
    exporter.start([reader], [source.buffer.reader("t")])
    azure.script(Answer(206, errors={0: 500}), Answer(500), Answer(400))
    for n in range(1, 4):
        source.count(a=1)
        source.happen(1)
        azure.wait_for(lambda: len(azure.received) >= 2 * n)
    exporter.stop(bench.deadline_ns(5))
    import threading
    ours = ("MainThread", "application-insights", "process_request_thread", "deadlines")
    others = [t.name for t in threading.enumerate() if not any(s in t.name for s in ours)]
    print([seen - {("127.0.0.1", azure.port)}, others, len(azure.envelopes()) > 0])
"""


def test_nobody_is_called_but_the_endpoint_and_nothing_is_kept_on_disk(
    tmp_path: Any,
) -> None:
    """Every connection, datagram and name look-up of a process that exports is seen."""
    done = subprocess.run(
        [sys.executable, "-c", WATCHED],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "TMPDIR": str(tmp_path)},
    )
    assert (done.returncode, done.stdout) == (0, "[set(), [], True]\n"), done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("identity", ["default", "workload_identity", "managed_identity"])
def test_each_identity_can_be_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, identity: str
) -> None:
    monkeypatch.setenv("AZURE_FEDERATED_TOKEN_FILE", str(tmp_path / "token"))
    chosen = {"identity": identity, "client_id": "its-id", "tenant_id": "its-tenant"}
    made(auth={"azure_ad": chosen})
