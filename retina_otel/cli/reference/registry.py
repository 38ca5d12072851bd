"""Writes the signals as data: a registry that OpenTelemetry's weaver reads, and the schema files.

Both are made from `retina_otel.model.signals` and checked in; a test writes them anew and compares.
The registry is in the definition language 2 of weaver, which the conventions themselves use. What
they have released is referred to, not defined again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import yaml

from retina_otel.agent.own_metrics import OWN_METRICS
from retina_otel.model.attributes import END_ATTRIBUTES
from retina_otel.model.preview import ATTRIBUTES, METRICS, PREVIEW_SCHEMA_URL
from retina_otel.model.signals import (
    BUILT_IN,
    PREFIX,
    SCHEMA_URL,
    Attribute,
    Ends,
    Event,
    Kind,
    Metric,
    Signal,
)
from retina_otel.pipeline.series.projection import DEFAULT_END_ATTRIBUTES, PREFIXES

NOTICE = "# Written from the code by `make docs`: change the code, not this file.\n"
SEMCONV = "1.44.0"
REGISTRY = Path("docs/reference/registry")
SCHEMAS = Path("schemas")
SIGNALS: tuple[Signal, ...] = (*BUILT_IN, *OWN_METRICS)

_SEMCONV_SCHEMA = f"https://opentelemetry.io/schemas/{SEMCONV}"
_SEMCONV_SOURCE = (
    "https://github.com/open-telemetry/semantic-conventions/archive/refs/tags/"
    f"v{SEMCONV}.zip[model]"
)
_LANGUAGE = (
    "# yaml-language-server: $schema=https://raw.githubusercontent.com/open-telemetry/weaver/"
    "v0.25.1/schemas/semconv.schema.v2.json\n"
)
_INSTRUMENTS = {
    Kind.COUNTER: "counter",
    Kind.UPDOWN: "updowncounter",
    Kind.GAUGE: "gauge",
    Kind.HISTOGRAM: "histogram",
}
_GROUPS = {Ends.ONE: "attributes.retina.end", Ends.BOTH: "attributes.retina.ends"}
_RESOURCE = (
    "cloud",
    "host",
    "k8s.cluster",
    "k8s.node",
    "os",
    "service",
    "service.instance",
    "telemetry.distro",
)
"""Entities of the conventions that the agent's resource stands for."""
_POD_LABELS = "k8s.pod.label"
_DRAFT = "Not released by the semantic conventions; compare pull request 3828 there."


def files() -> dict[Path, str]:
    """Text by path from the root of the repository."""
    definitions: dict[str, dict[str, Any]] = {
        "attributes.yaml": {
            "attributes": [_definition(*one) for one in sorted(_defined().items())],
            "attribute_groups": [_ends_group(ends) for ends in _GROUPS],
        },
        "metrics.yaml": {
            "imports": {"metrics": sorted(one.name for one in SIGNALS if _released(one))},
            "metrics": [_metric(one) for one in SIGNALS if _ours(one) and isinstance(one, Metric)],
        },
        "resource.yaml": {"imports": {"entities": list(_RESOURCE)}},
        "events.yaml": {"events": [_event(one) for one in SIGNALS if isinstance(one, Event)]},
    }
    return {
        REGISTRY / "manifest.yaml": NOTICE + _yaml(_manifest()),
        **{
            REGISTRY / name: NOTICE + _LANGUAGE + _yaml({"file_format": "definition/2", **text})
            for name, text in definitions.items()
        },
        SCHEMAS / _version(SCHEMA_URL): NOTICE + _yaml(_schema(SCHEMA_URL)),
        SCHEMAS / _version(PREVIEW_SCHEMA_URL): NOTICE + _yaml(_schema(PREVIEW_SCHEMA_URL)),
    }


def _manifest() -> dict[str, Any]:
    return {
        "schema_url": SCHEMA_URL,
        "description": "What retina-otel reports of networks, and of itself.",
        "stability": "development",
        "dependencies": [{"schema_url": _SEMCONV_SCHEMA, "registry_path": _SEMCONV_SOURCE}],
    }


def _schema(url: str) -> dict[str, Any]:
    """A schema file of format 1.1.0: how names changed from version to version, newest first."""
    versions: dict[str, Any] = {_version(SCHEMA_URL): None}
    if url == PREVIEW_SCHEMA_URL:
        changes = {
            "all": {"changes": [{"rename_attributes": {"attribute_map": dict(ATTRIBUTES)}}]},
            "metrics": {"changes": [{"rename_metrics": dict(METRICS)}]},
        }
        versions = {_version(url): changes, **versions}
    return {"file_format": "1.1.0", "schema_url": url, "versions": versions}


def _version(url: str) -> str:
    return url.rpartition("/")[2]


def _ours(signal: Signal) -> bool:
    return signal.name.startswith(PREFIX)


def _released(signal: Signal) -> bool:
    return not _ours(signal)


def _defined() -> dict[str, Attribute]:
    """Attributes that no released convention has, by full name."""
    own = {one.name: one for signal in SIGNALS for one in signal.attributes}
    of_ends = {
        prefix + one.name: one
        for ends in _GROUPS
        for prefix in PREFIXES[ends]
        for one in END_ATTRIBUTES
        if prefix or one.stability == "draft"
    }
    return {
        **{
            name: one
            for name, one in own.items()
            if name.startswith(PREFIX) or one.stability == "draft"
        },
        **of_ends,
        **{
            prefix + _POD_LABELS: Attribute(
                prefix + _POD_LABELS,
                "template[string]",
                "A label of the pod, its key last.",
                stability="draft",
                examples=("web",),
            )
            for prefix in PREFIXES[Ends.BOTH]
        },
    }


def _definition(name: str, attribute: Attribute) -> dict[str, Any]:
    found: dict[str, Any] = {"key": name, "type": attribute.type, "brief": attribute.brief}
    if not name.startswith(PREFIX):
        found["note"] = _DRAFT
    # Nothing that is defined here has been released, whatever the name it is made of is.
    found["stability"] = "development"
    if attribute.examples:
        found["examples"] = list(attribute.examples)
    if name in ATTRIBUTES:
        found["annotations"] = {"retina": {"preview_name": ATTRIBUTES[name]}}
    return found


def _ends_group(ends: Ends) -> dict[str, Any]:
    always = {name for names in DEFAULT_END_ATTRIBUTES.values() for name in names}
    references = [
        _reference(prefix + one.name, opt_in=one.name not in always)
        for prefix in PREFIXES[ends]
        for one in END_ATTRIBUTES
    ]
    references += [_reference(prefix + _POD_LABELS, opt_in=True) for prefix in PREFIXES[ends]]
    return {"id": _GROUPS[ends], "visibility": "internal", "attributes": references}


def _reference(name: str, *, opt_in: bool) -> dict[str, Any]:
    return {"ref": name, "requirement_level": "opt_in" if opt_in else "recommended"}


def _attributes(signal: Signal) -> list[dict[str, Any]]:
    groups = [{"ref_group": _GROUPS[signal.ends]}] if signal.ends in _GROUPS else []
    return [*groups, *(_reference(one.name, opt_in=one.opt_in) for one in signal.attributes)]


def _metric(metric: Metric) -> dict[str, Any]:
    annotations: dict[str, Any] = {
        "code_generation": {"metric_value_type": "int" if metric.integer else "double"},
        "retina": {"scope": metric.scope},
    }
    if metric.name in METRICS:
        annotations["retina"]["preview_name"] = METRICS[metric.name]
    return {
        "name": metric.name,
        "instrument": _INSTRUMENTS[metric.kind],
        "unit": metric.unit,
        "brief": metric.brief,
        "stability": metric.stability,
        "requirement_level": "recommended",
        "attributes": _attributes(metric),
        "annotations": annotations,
    }


def _event(event: Event) -> dict[str, Any]:
    return {
        "name": event.name,
        "brief": event.brief,
        "stability": event.stability,
        "requirement_level": "recommended",
        "attributes": _attributes(event),
        "annotations": {"retina": {"scope": event.scope, "severity_number": event.severity}},
    }


def _yaml(data: Mapping[str, Any]) -> str:
    text: str = yaml.safe_dump(dict(data), sort_keys=False, allow_unicode=True, width=100)
    return text.replace(": null\n", ":\n")


def write(root: Path = Path()) -> list[str]:
    """Writes the files that differ; names them."""
    changed = []
    for path, text in files().items():
        target = root / path
        if not target.exists() or target.read_text(encoding="utf-8") != text:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
            changed.append(str(path))
    return changed


if __name__ == "__main__":
    for changed_name in write():
        click.echo(f"wrote {changed_name}")
