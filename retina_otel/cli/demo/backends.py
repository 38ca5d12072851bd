"""The backends of `demo --backends`: a Collector that takes the agent's OTLP, and a Prometheus.

Both run on the loopback of the lab's node, where the agent reaches them; a relay on this machine's
loopback passes on to Prometheus, for a browser.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from retina_otel.cli.demo.checks import Equality
from retina_otel.cli.demo.figures import Figures
from retina_otel.dashboards.alerts import rule_file
from retina_otel.dashboards.promql import Label, PromQL
from retina_otel.model.signals import DROP_PACKETS, FLOW_IO, FLOW_PACKETS, K8S_POD_NAME
from retina_otel.testing.backends import Collector, Prometheus
from retina_otel.testing.cluster import forward
from retina_otel.testing.namespaces import Namespace

_LOOPBACK = "127.0.0.1"
_PODS = tuple(PromQL().plain_label(end(K8S_POD_NAME)) for end in (Label.source, Label.destination))
_ARRIVAL_S = 15.0
_STOP_S = 5.0


class DemoBackends:
    """Running backends, as a context manager. `folder` keeps their files."""

    def __init__(self, node: Namespace, folder: Path) -> None:
        (folder / "alerts.yaml").write_text(yaml.safe_dump(rule_file(), sort_keys=False))
        self._node = node
        self._prometheus = Prometheus(
            folder, namespace=node, config={"rule_files": [str(folder / "alerts.yaml")]}
        )
        self._collector = Collector(
            "gateway-prometheus-remote-write",
            folder,
            {"PROMETHEUS_REMOTE_WRITE_URL": self._prometheus.remote_write_url},
            namespace=node,
        )
        self._exits = ExitStack()
        self.url = ""
        """Where this machine's browser finds Prometheus."""

    def __enter__(self) -> DemoBackends:
        with ExitStack() as exits:
            exits.enter_context(self._prometheus)
            exits.enter_context(self._collector)
            exits.callback(self._relay())
            self._exits = exits.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._exits.close()

    def exporters(self) -> dict[str, Any]:
        """What the agent's configuration needs beside its own."""
        return {"otlp_http": {"endpoint": self._collector.endpoint, "interval": "2s"}}

    def equalities(self, seen: Figures) -> Iterator[Equality]:
        """What came out at the far end, beside what the agent said; when it has ended."""
        for metric, what, number, having in (
            (FLOW_PACKETS, "packets of all flows", sum(seen.packets.values()), ()),
            (FLOW_IO, "bytes of all flows", sum(seen.bytes.values()), ()),
            (DROP_PACKETS, "packets of pods dropped", sum(seen.pod_drops.values()), _PODS),
        ):
            arrived = self._arrived(PromQL().series(metric), number, having)
            yield Equality("Prometheus", what, (("/metrics", number), ("Prometheus", arrived)))

    def _arrived(self, selector: str, wanted: int, having: Sequence[str]) -> int:
        """The sum of the last samples of series that have one of the labels, or of all; once it is
        what is wanted or the time is over: the Collector has taken all, and passes it on."""
        deadline = time.monotonic() + _ARRIVAL_S
        while True:
            found = sum(
                int(value)
                for labels, value in self._prometheus.last(selector)
                if not having or any(label in labels for label in having)
            )
            if found == wanted or time.monotonic() > deadline:
                return found
            time.sleep(0.2)

    def _relay(self) -> Any:
        """Starts the relay and sets `url`; returns what ends it."""
        listener = socket.create_server((_LOOPBACK, 0))
        with listener:
            self.url = f"http://{_LOOPBACK}:{listener.getsockname()[1]}"
            process = subprocess.Popen(
                [
                    *("nsenter", f"--net={self._node.path}", "--"),
                    *("setpriv", "--pdeathsig", "KILL", "--"),
                    *(sys.executable, forward.__file__),
                    f"{listener.fileno()}={_LOOPBACK}:{self._prometheus.port}",
                ],
                pass_fds=[listener.fileno()],
                stdin=subprocess.DEVNULL,
            )

        def end() -> None:
            process.kill()
            process.wait(_STOP_S)

        return end
