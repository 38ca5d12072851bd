"""The metrics that the agent reports about itself, declared once; they ride every metrics exporter.

Ledgers count raw things since the start: for each ledger, seen = drained + filtered + sampled +
not_ours + lost + held, so `retina.ledger.difference` is 0 when the books close. What exporters do
is told by the names of the semantic conventions for SDKs where there are any.
"""

from __future__ import annotations

from retina_otel.model.attributes import ERROR_TYPE, K8S_NAMESPACE_NAME, NETWORK_INTERFACE_NAME
from retina_otel.model.signals import PREFIX, Attribute, Kind, Metric

SCOPE = "retina_otel.agent"

COMPONENT_ID = Attribute(
    f"{PREFIX}component.id",
    "string",
    "The component, as the configuration names it.",
    examples=("flows", "otlp_http/backup"),
)
COMPONENT_KIND = Attribute(
    f"{PREFIX}component.kind",
    "string",
    "What the component is.",
    examples=("receiver", "processor", "exporter", "extension"),
)
COMPONENT_STATE = Attribute(
    f"{PREFIX}component.state",
    "string",
    "What the component is doing.",
    examples=("starting", "running", "degraded", "failed", "stopped"),
)
LEDGER_NAME = Attribute(
    f"{PREFIX}ledger.name",
    "string",
    "Whose books these are: kind and id of a component, or a pipeline.",
    examples=("receiver/flows", "exporter/otlp_http"),
)
LEDGER_ACCOUNT = Attribute(
    f"{PREFIX}ledger.account",
    "string",
    "What became of the things counted.",
    examples=("seen", "drained", "filtered", "sampled", "not_ours", "lost"),
)
LEDGER_REASON = Attribute(
    f"{PREFIX}ledger.reason",
    "string",
    "Why, for `not_ours` and `lost`; and what, for `retina.ledger.beside`.",
    examples=("ring_full", "not_ip", "before_attach"),
)
LEDGER_UNIT = Attribute(
    f"{PREFIX}ledger.unit",
    "string",
    "What is counted.",
    examples=("packets", "events", "points"),
)
PIPELINE_NAME = Attribute(
    f"{PREFIX}pipeline.name",
    "string",
    "The pipeline. Several that have the same receivers, processors and attributes are one, and "
    "told once, by the name of one of them.",
    examples=("metrics", "logs/drops"),
)
METRIC_NAME = Attribute(
    f"{PREFIX}metric.name",
    "string",
    "The metric of which something is told.",
    examples=("retina.flow.io",),
)
RELOAD_OUTCOME = Attribute(
    f"{PREFIX}config.outcome",
    "string",
    "`refused`: the file was invalid and the old configuration went on.",
    examples=("applied", "refused"),
)
OTEL_COMPONENT_NAME = Attribute(
    "otel.component.name",
    "string",
    "The exporter, as the configuration names it.",
    examples=("otlp_http", "otlp_http/backup"),
)
OTEL_COMPONENT_TYPE = Attribute(
    "otel.component.type",
    "string",
    "The exporter's type and signal, as the semantic conventions call it if they have a name.",
    examples=("otlp_http_metric_exporter", "otlp_http_log_exporter", "file_metric_exporter"),
)
CPU_MODE = Attribute(
    "cpu.mode", "string", "Mode of the CPU.", stability="development", examples=("user", "system")
)

LEDGER_COUNT = Metric(
    f"{PREFIX}ledger.count",
    Kind.COUNTER,
    "{count}",
    "Raw things in each account of each ledger.",
    attributes=(LEDGER_NAME, LEDGER_ACCOUNT, LEDGER_REASON, LEDGER_UNIT),
    scope=SCOPE,
)
LEDGER_DIFFERENCE = Metric(
    f"{PREFIX}ledger.difference",
    Kind.GAUGE,
    "{count}",
    "Seen less all other accounts: 0 when the books close.",
    attributes=(LEDGER_NAME, LEDGER_UNIT),
    scope=SCOPE,
)
LEDGER_HELD = Metric(
    f"{PREFIX}ledger.held",
    Kind.UPDOWN,
    "{count}",
    "What waits until it is known where it belongs: part of the books, but it moves on.",
    attributes=(LEDGER_NAME, LEDGER_UNIT),
    scope=SCOPE,
)
LEDGER_BESIDE = Metric(
    f"{PREFIX}ledger.beside",
    Kind.GAUGE,
    "{count}",
    "What is known beside the books: before attaching, in recursions of the kernel.",
    attributes=(LEDGER_NAME, LEDGER_REASON, LEDGER_UNIT),
    scope=SCOPE,
)
_EXPORTER = (OTEL_COMPONENT_NAME, OTEL_COMPONENT_TYPE, ERROR_TYPE)
POINTS_EXPORTED = Metric(
    "otel.sdk.exporter.metric_data_point.exported",
    Kind.COUNTER,
    "{data_point}",
    "Data points that an exporter is done with: the backend took them, or `error.type` says why "
    "it never will, by the ledger's reason for what is lost.",
    attributes=_EXPORTER,
    scope=SCOPE,
)
EVENTS_EXPORTED = Metric(
    "otel.sdk.exporter.log.exported",
    Kind.COUNTER,
    "{log_record}",
    "Events that an exporter is done with: the backend took them, or `error.type` says why it "
    "never will, by the ledger's reason for what is lost.",
    attributes=_EXPORTER,
    scope=SCOPE,
)
EXPORTER_REQUESTS = Metric(
    f"{PREFIX}exporter.requests",
    Kind.COUNTER,
    "{request}",
    "Requests, or writes, that were tried, retries among them. Those that did not pass as a whole "
    "have an `error.type`; `internal` is a defect of the agent, which has sent nothing.",
    attributes=_EXPORTER,
    scope=SCOPE,
)
EXPORTER_REQUEST_IO = Metric(
    f"{PREFIX}exporter.request.io",
    Kind.COUNTER,
    "By",
    "Size of all these requests before compression.",
    attributes=(OTEL_COMPONENT_NAME, OTEL_COMPONENT_TYPE),
    scope=SCOPE,
)
EXPORTER_OPERATION_DURATION = Metric(
    "otel.sdk.exporter.operation.duration",
    Kind.HISTOGRAM,
    "s",
    "Time that a request, or write, of an exporter took until it was answered or given up.",
    attributes=_EXPORTER,
    boundaries=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
    scope=SCOPE,
    integer=False,
)
COVERAGE = Metric(
    f"{PREFIX}coverage",
    Kind.GAUGE,
    "1",
    "What was counted over what the interface itself counted; 1 is complete.",
    attributes=(LEDGER_NAME, NETWORK_INTERFACE_NAME),
    scope=SCOPE,
    integer=False,
)
COVERAGE_PACKETS = Metric(
    f"{PREFIX}coverage_packets",
    Kind.GAUGE,
    "{packet}",
    "Packets of the interface's own that its coverage rests on: since the agent looks at it.",
    attributes=(LEDGER_NAME, NETWORK_INTERFACE_NAME),
    scope=SCOPE,
)
COMPONENT_STATUS = Metric(
    f"{PREFIX}component.status",
    Kind.UPDOWN,
    "1",
    "1 for the state that the component is in, 0 for the others.",
    attributes=(COMPONENT_KIND, COMPONENT_ID, COMPONENT_STATE),
    scope=SCOPE,
)
COMPONENT_FAILURES = Metric(
    f"{PREFIX}component.failures",
    Kind.COUNTER,
    "{failure}",
    "How often the component raised or missed its deadline.",
    attributes=(COMPONENT_KIND, COMPONENT_ID),
    scope=SCOPE,
)
COLLECTION_DURATION = Metric(
    f"{PREFIX}receiver.collection.duration",
    Kind.HISTOGRAM,
    "s",
    "Time that a receiver took to be collected from.",
    attributes=(COMPONENT_ID,),
    boundaries=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
    scope=SCOPE,
    integer=False,
)
PIPELINE_SERIES = Metric(
    f"{PREFIX}pipeline.series",
    Kind.UPDOWN,
    "{series}",
    "Live series, each counted once: their sum is what the agent holds.",
    attributes=(PIPELINE_NAME,),
    scope=SCOPE,
)
_FOLDED = (PIPELINE_NAME, METRIC_NAME, K8S_NAMESPACE_NAME)
FOLDED_SERIES = Metric(
    f"{PREFIX}cardinality.folded_series",
    Kind.GAUGE,
    "{series}",
    "Series that there was no room for in the newest window, by the namespace of the workload: the "
    "source's of what leaves it, the destination's of what enters it.",
    attributes=_FOLDED,
    scope=SCOPE,
)
FOLDED_IO = Metric(
    f"{PREFIX}cardinality.folded_io",
    Kind.COUNTER,
    "By",
    "Bytes credited to the overflow series of a metric, by the same namespaces: their sum is the "
    "value of that series.",
    attributes=_FOLDED,
    scope=SCOPE,
)
CONFIG_RELOADS = Metric(
    f"{PREFIX}config.reloads",
    Kind.COUNTER,
    "{reload}",
    "How often the configuration was read again.",
    attributes=(RELOAD_OUTCOME,),
    scope=SCOPE,
)
PROCESS_CPU_TIME = Metric(
    "process.cpu.time",
    Kind.COUNTER,
    "s",
    "CPU time that the agent used.",
    attributes=(CPU_MODE,),
    scope=SCOPE,
    integer=False,
)
PROCESS_MEMORY_USAGE = Metric(
    "process.memory.usage",
    Kind.UPDOWN,
    "By",
    "Resident memory of the agent.",
    scope=SCOPE,
)

OWN_METRICS: tuple[Metric, ...] = (
    LEDGER_COUNT,
    LEDGER_DIFFERENCE,
    LEDGER_HELD,
    LEDGER_BESIDE,
    POINTS_EXPORTED,
    EVENTS_EXPORTED,
    EXPORTER_REQUESTS,
    EXPORTER_REQUEST_IO,
    EXPORTER_OPERATION_DURATION,
    COVERAGE,
    COVERAGE_PACKETS,
    COMPONENT_STATUS,
    COMPONENT_FAILURES,
    COLLECTION_DURATION,
    PIPELINE_SERIES,
    FOLDED_SERIES,
    FOLDED_IO,
    CONFIG_RELOADS,
    PROCESS_CPU_TIME,
    PROCESS_MEMORY_USAGE,
)
