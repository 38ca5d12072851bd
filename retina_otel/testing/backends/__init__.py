"""Real backends as processes on loopback, for tests and the demo: where telemetry ends.

Each is a context manager over a folder of its user's, and dies with the process that started it.

    with Prometheus(folder, scrape=["127.0.0.1:9090"]) as prometheus:
        assert prometheus.last("retina_drop_packets_total") == [...]
"""

from retina_otel.testing.backends.collector import Collector, validate
from retina_otel.testing.backends.kafka import Kafka
from retina_otel.testing.backends.loki import Entry, Loki
from retina_otel.testing.backends.process import Backend, free_ports, running
from retina_otel.testing.backends.prometheus import Prometheus, Series, promtool

__all__ = [
    "Backend",
    "Collector",
    "Entry",
    "Kafka",
    "Loki",
    "Prometheus",
    "Series",
    "free_ports",
    "promtool",
    "running",
    "validate",
]
