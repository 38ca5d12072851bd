"""Writes the pages of docs/reference from the code; `make docs` calls it.

What it writes is checked in; a test writes it anew and compares. Only built-in components are in.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import click
from click.testing import CliRunner
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from retina_otel.agent.own_metrics import OWN_METRICS
from retina_otel.cli import app
from retina_otel.cli.exit_codes import MEANING
from retina_otel.cli.reference.types import brief, default_text, type_text
from retina_otel.component import Component, ComponentKind
from retina_otel.config.registry import SECTIONS, Registry
from retina_otel.config.schema import json_schema
from retina_otel.config.settings import ServiceSettings
from retina_otel.dashboards.alerts import alerts
from retina_otel.model import attributes as model_attributes
from retina_otel.model import preview
from retina_otel.model.signals import BUILT_IN, Attribute, Event, Metric, Signal

FOLDER = Path("docs/reference")
NOTICE = "<!-- Written from the code by `make docs`: change the code, not this page. -->"


def pages() -> dict[str, str]:
    """Text by file name in docs/reference."""
    registry = Registry.installed()
    components = [
        registry.load(offer.kind, offer.type) for offer in registry.offers() if offer.built_in
    ]
    schema = json_schema(registry, which=lambda offer: offer.built_in)
    return {
        "index.md": _page(_index()),
        "configuration.md": _page(_configuration(components)),
        "components.md": _page(_components(components)),
        "signals.md": _page(_signals(components)),
        "alerts.md": _page(_alerts()),
        "command-line.md": _page(_command_line()),
        "config.schema.json": json.dumps(schema, indent=2, ensure_ascii=False) + "\n",
    }


def _index() -> Iterator[str]:
    yield "# Reference"
    yield ""
    yield "Made from the source."
    yield ""
    yield "* [Components](components.md): what a configuration may name"
    yield "* [Configuration](configuration.md): every setting, its type and default"
    yield "* [Signals](signals.md): every metric, event and attribute"
    yield "* [Registry](registry): the same for OpenTelemetry's weaver"
    yield "* [Alerts](alerts.md): every alert rule, and what to do first"
    yield "* [Command line](command-line.md): commands, options, exit codes"
    yield "* [JSON Schema of the configuration](config.schema.json), for editors"


def _page(lines: Iterable[str]) -> str:
    return "\n".join([NOTICE, "", *lines]).rstrip() + "\n"


def _configuration(components: Sequence[Component]) -> Iterator[str]:
    yield "# Configuration"
    yield ""
    yield (
        "A file is shaped like an OpenTelemetry Collector's. Values come from the file, then from "
        "`RETINA_OTEL__SECTION__COMPONENT__KEY` variables, then from `--set section.component."
        "key=value`; the later wins. `${env:NAME}` and `${env:NAME:-default}` are expanded in "
        "values; `$$` is a dollar sign. A second instance of a component is called `type/name`. "
        "`config.schema.json` beside this page is the JSON Schema."
    )
    yield ""
    yield "## `service`"
    yield ""
    yield from _settings_table("service", ServiceSettings)
    for kind, section in SECTIONS.items():
        for component in components:
            if component.kind is kind:
                yield f"## `{section}.{component.type}`"
                yield ""
                yield from _settings_table(f"{section}.{component.type}", component.Settings)


def _settings_table(path: str, model: type[BaseModel]) -> Iterator[str]:
    if text := brief(model):
        yield text
        yield ""
    rows = list(_setting_rows("", model))
    if not rows:
        yield "It has no settings."
        yield ""
        return
    yield from _table(("Key", "Type", "Default", "Meaning"), rows)


def _setting_rows(prefix: str, model: type[BaseModel]) -> Iterator[tuple[str, ...]]:
    for name, field in model.model_fields.items():
        key = f"{prefix}{name}"
        inner = _inner(field)
        if inner is None:
            yield (
                f"`{key}`",
                type_text(field),
                default_text(field),
                " ".join((field.description or "").split()),
            )
            continue
        each = inner[0] == "each"
        # What is off unless it is given says so itself: its keys' defaults hold only then.
        if each or field.default is None:
            yield (
                f"`{key}`",
                "mapping",
                default_text(field),
                " ".join((field.description or "").split()),
            )
        yield from _setting_rows(f"{key}.<name>." if each else f"{key}.", inner[1])


def _inner(field: FieldInfo) -> tuple[str, type[BaseModel]] | None:
    """The model inside a field: ("one", Model), ("each", Model) of a mapping, or None."""
    for option in (field.annotation, *typing.get_args(field.annotation)):
        if isinstance(option, type) and issubclass(option, BaseModel):
            return ("each" if typing.get_origin(field.annotation) is dict else "one"), option
    return None


def _components(components: Sequence[Component]) -> Iterator[str]:
    yield "# Components"
    yield ""
    yield "What a configuration may name. `retina-otel components` also lists those of other"
    yield "installed packages."
    yield ""
    for kind, section in SECTIONS.items():
        yield f"## {section.capitalize()}"
        yield ""
        rows = [
            (
                f"[`{one.type}`](configuration.md#{section}{one.type})",
                _module_brief(one),
                one.stability,
                ", ".join(sorted(one.signals, reverse=True))
                if kind is not ComponentKind.EXTENSION
                else "",
                ", ".join(f"`{capability}`" for capability in one.requires),
            )
            for one in components
            if one.kind is kind
        ]
        yield from _table(("Type", "What it does", "Stability", "Pipelines", "Needs"), rows)


def _module_brief(component: Component) -> str:
    """The first paragraph about the module, without the component's own name before it."""
    module = sys.modules[component.Settings.__module__]
    package = sys.modules.get(module.__name__.rpartition(".")[0])
    # A receiver of several modules is described by its package.
    described = package if getattr(package, "COMPONENT", None) is component else module
    text = inspect.cleandoc(described.__doc__ or "").partition("\n\n")[0]
    text = re.sub(rf"^`?{component.type}`?: ", "", text)
    return text[:1].upper() + text[1:]


def _signals(components: Sequence[Component]) -> Iterator[str]:
    declared: dict[str, list[Signal]] = {}
    for component in components:
        own = [one for one in component.declares if isinstance(one, (Metric, Event))]
        if own:
            declared[f"{component.kind.value} `{component.type}`"] = own
    listed = {signal for signals in declared.values() for signal in signals}
    if others := [signal for signal in BUILT_IN if signal not in listed]:
        declared["other built-in receivers"] = others
    declared["the agent itself"] = list(OWN_METRICS)
    attributes = {
        one.name: one for one in vars(model_attributes).values() if isinstance(one, Attribute)
    }
    yield "# Signals"
    yield ""
    yield (
        "Every metric, event and attribute that the built-in components report. Attributes of ends "
        "(`k8s.*`, `cidr`, ...) stand under `source.` and `destination.` where a signal has both."
    )
    yield ""
    for who, signals in declared.items():
        yield f"## Reported by {who}"
        yield ""
        for signal in signals:
            yield from _signal(signal)
            attributes.update({one.name: one for one in signal.attributes})
    for component in components:
        for one in component.declares:
            if isinstance(one, Attribute):
                attributes[one.name] = one
    yield "## Names of the conventions' draft"
    yield ""
    yield (
        "The semantic conventions have a draft of network flows, not yet released. "
        "`service.telemetry.semconv_preview: true`, or `RETINA_OTEL_SEMCONV_PREVIEW=true`, emits "
        "its names, in every pipeline and exporter, under the schema "
        f"`{preview.PREVIEW_SCHEMA_URL}` and the scope `{preview.PREVIEW_SCOPE}`. In the "
        "configuration names stay what they are."
    )
    yield ""
    renamed = {**preview.METRICS, **preview.ATTRIBUTES}
    yield from _table(
        ("Name", "In the preview"), [(f"`{ours}`", f"`{draft}`") for ours, draft in renamed.items()]
    )
    yield "## Signals as data"
    yield ""
    yield (
        "[registry](registry) has all of this for OpenTelemetry's weaver "
        "(`weaver registry check -r docs/reference/registry`), which makes constants for any "
        "language of it; those for Python are in `retina_otel.semconv`. `schemas` in the "
        "repository has the schema files."
    )
    yield ""
    yield "## Attributes"
    yield ""
    rows = [
        (
            f"`{one.name}`",
            one.type,
            one.brief,
            ", ".join(f"`{example}`" for example in one.examples),
            one.stability,
        )
        for _, one in sorted(attributes.items())
    ]
    yield from _table(("Attribute", "Type", "Meaning", "Examples", "Stability"), rows)


def _signal(signal: Signal) -> Iterator[str]:
    yield f"### `{signal.name}`"
    yield ""
    yield signal.brief
    yield ""
    facts: dict[str, str] = {}
    if isinstance(signal, Metric):
        facts["Kind"] = signal.kind.value
        facts["Unit"] = f"`{signal.unit}`"
    else:
        facts["Kind"] = "event"
        facts["Severity"] = str(signal.severity)
    facts["Ends"] = {"none": "none", "one": "one", "both": "source and destination"}[
        signal.ends.value
    ]
    facts["Stability"] = signal.stability
    facts["Attributes"] = _attribute_names(signal.attributes)
    yield from _facts(facts)


def _attribute_names(attributes: Sequence[Attribute]) -> str:
    names = [f"`{one.name}`" + (" (opt-in)" if one.opt_in else "") for one in attributes]
    return ", ".join(names) or "none"


def _facts(facts: Mapping[str, str]) -> Iterator[str]:
    yield from _table(tuple(facts), [tuple(facts.values())])


def _command_line() -> Iterator[str]:
    yield "# Command line"
    yield ""
    yield "```text"
    yield from _help([])
    yield "```"
    yield ""
    for name in app.COMMANDS:
        yield f"## `{app.PROGRAM} {name}`"
        yield ""
        yield "```text"
        yield from _help([name])
        yield "```"
        yield ""
    yield "## Exit codes"
    yield ""
    rows = [(str(int(code)), meaning) for code, meaning in MEANING.items()]
    yield from _table(("Code", "Meaning"), rows)


def _help(arguments: Sequence[str]) -> Iterator[str]:
    result = CliRunner().invoke(
        app.command, [*arguments, "--help"], prog_name=app.PROGRAM, terminal_width=100
    )
    if result.exit_code != 0:
        raise click.ClickException(f"{' '.join(arguments)} --help failed: {result.output}")
    yield from (line.rstrip() for line in result.output.rstrip().splitlines())


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(headings)} |"
    yield f"|{'|'.join('---' for _ in headings)}|"
    for row in rows:
        cells = [" ".join(cell.split()).replace("|", "\\|") for cell in row]
        yield f"| {' | '.join(cells)} |"
    yield ""


def _alerts() -> Iterator[str]:
    yield "# Alerts"
    yield ""
    yield (
        "The rules that `retina-otel dashboards alerts` prints. "
        "[See it in Grafana](../how-to/see-it-in-grafana.md) tells how to use them."
    )
    for alert in alerts():
        yield ""
        yield f"## {alert.name}"
        yield ""
        yield f"{alert.description} ({alert.severity}, after {alert.lasting})"
        yield ""
        yield f"```promql\n{alert.expression}\n```"


def write(folder: Path = FOLDER) -> list[str]:
    """Writes the pages that differ; names them."""
    folder.mkdir(parents=True, exist_ok=True)
    changed = []
    for name, text in pages().items():
        path = folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            changed.append(str(path))
    return changed


if __name__ == "__main__":
    for changed_name in write():
        click.echo(f"wrote {changed_name}")
