"""A checked configuration from file < environment < `--set`, and what runs without a file."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from retina_otel.component import Component, ComponentKind
from retina_otel.config.choices import unmatched
from retina_otel.config.default import default_document
from retina_otel.config.document import Document, KeyPath, parse_text, read_document
from retina_otel.config.listening import conflicts
from retina_otel.config.problems import raise_all, translate
from retina_otel.config.registry import SECTIONS, Registry, nearest, suggestion
from retina_otel.config.settings import PipelineSettings, ServiceSettings
from retina_otel.errors import ConfigError

ENVIRONMENT_PREFIX = "RETINA_OTEL__"
PREVIEW_VARIABLE = "RETINA_OTEL_SEMCONV_PREVIEW"
_PREVIEW: KeyPath = ("service", "telemetry", "semconv_preview")
SIGNALS = ("metrics", "logs")
_SECTION_NAMES = (*SECTIONS.values(), "service")


@dataclass(frozen=True, slots=True)
class Instance:
    """A component with its settings, under the id that the configuration gives it."""

    id: str
    component: Component
    settings: BaseModel

    @property
    def kind(self) -> ComponentKind:
        return self.component.kind


@dataclass(frozen=True, slots=True)
class Configuration:
    """What to run. Only components that something uses are in it."""

    receivers: Mapping[str, Instance]
    processors: Mapping[str, Instance]
    exporters: Mapping[str, Instance]
    extensions: Mapping[str, Instance]
    service: ServiceSettings
    warnings: tuple[str, ...] = ()
    source: str = ""
    """The files' names, or that it is the built-in default."""

    def instances(self) -> Iterator[Instance]:
        for section in (self.extensions, self.receivers, self.processors, self.exporters):
            yield from section.values()

    def silenced(self) -> Configuration:
        """Only the extensions, so that the agent still tells how it is."""
        return replace(
            self,
            receivers={},
            processors={},
            exporters={},
            service=self.service.model_copy(update={"pipelines": {}}),
        )

    def pipelines(self, signal: str) -> Mapping[str, PipelineSettings]:
        """Pipelines of "metrics" or "logs", by name."""
        return {
            name: pipeline
            for name, pipeline in self.service.pipelines.items()
            if name.partition("/")[0] == signal
        }


def load(
    registry: Registry,
    *,
    path: Path | Sequence[Path] | None,
    environment: Mapping[str, str],
    overrides: Sequence[str] = (),
) -> Configuration:
    """Reads, merges and checks. Of several files the later win; without any the default stands.
    `overrides` are `a.b=c`. Raises ConfigError, with all problems."""
    paths = [path] if isinstance(path, Path) else path or ()
    files = [read_document(one, environment) for one in paths]
    if files:
        file = functools.reduce(lambda below, above: above.over(below), files)
    else:
        file = default_document(registry, environment)
    documents = [
        _overrides_document(overrides, file),
        _environment_document(environment, file),
        file,
    ]
    for document in documents:
        _check_sections(document)
    components = _load_components(registry, documents)
    tree = _tree(components, documents)
    try:
        settings = tree()
    except ValidationError as error:
        raise_all(translate(error, tree, documents))
        raise
    return _resolve(settings, components, documents)


def _check_sections(document: Document) -> None:
    """Sections hold mappings; an empty section or component counts as an empty mapping."""
    for section, value in list(document.data.items()):
        if section not in _SECTION_NAMES:
            close = nearest(section, _SECTION_NAMES)
            remedy = f"Did you mean '{close}'?" if close else f"Keys: {', '.join(_SECTION_NAMES)}."
            where = document.where((section,))
            raise ConfigError(f"unknown key ({where})", remedy, path=section)
        if value is None:
            document.data[section] = {}
        elif not isinstance(value, dict):
            where = document.where((section,))
            raise ConfigError(f"a mapping is expected ({where})", path=section)
        if section != "service":
            entries = document.data[section]
            for key in entries:
                if entries[key] is None:
                    entries[key] = {}


def _load_components(
    registry: Registry, documents: Sequence[Document]
) -> dict[ComponentKind, dict[str, Component]]:
    found: dict[ComponentKind, dict[str, Component]] = {kind: {} for kind in SECTIONS}
    errors = []
    for kind, section in SECTIONS.items():
        for document in reversed(documents):
            for id_ in document.data.get(section, {}):
                if id_ in found[kind]:
                    continue
                type_, slash, name = id_.partition("/")
                where = document.where((section, id_))
                if slash and not name:
                    errors.append(
                        ConfigError(
                            f"nothing stands after the slash ({where})",
                            f"Write {type_}, or {type_}/name.",
                            path=f"{section}.{id_}",
                        )
                    )
                    continue
                try:
                    found[kind][id_] = registry.load(kind, type_)
                except ConfigError as error:
                    errors.append(
                        ConfigError(
                            f"{error.message} ({where})", error.remedy, path=f"{section}.{id_}"
                        )
                    )
    raise_all(errors)
    return found


@functools.cache
def closed(settings: type[BaseModel]) -> type[BaseModel]:
    """The model itself, or a subclass that refuses unknown keys if it doesn't say what to do."""
    if "extra" in settings.model_config:
        return settings
    namespace = {"model_config": ConfigDict(extra="forbid"), "__module__": settings.__module__}
    return type(settings.__name__, (settings,), namespace)


class _Given(PydanticBaseSettingsSource):
    """A document as a source of pydantic-settings."""

    def __init__(self, tree: type[BaseSettings], document: Document) -> None:
        super().__init__(tree)
        self._document = document

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return self._document.data.get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        return self._document.data


def _tree(
    components: Mapping[ComponentKind, Mapping[str, Component]], documents: Sequence[Document]
) -> type[BaseSettings]:
    class Sources(BaseSettings):
        model_config = SettingsConfigDict(extra="forbid")

        @classmethod
        def settings_customise_sources(
            cls, settings_cls: type[BaseSettings], *_: Any, **__: Any
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return tuple(_Given(settings_cls, document) for document in documents)

    sections: dict[str, Any] = {}
    for kind, section in SECTIONS.items():
        fields: dict[str, Any] = {
            id_: (closed(component.Settings), ...) for id_, component in components[kind].items()
        }
        model = create_model(section, __config__=ConfigDict(extra="forbid"), **fields)
        sections[section] = (model, ... if fields else model())
    return create_model("Settings", __base__=Sources, service=(ServiceSettings, ...), **sections)


def _environment_document(environment: Mapping[str, str], file: Document) -> Document:
    data: dict[str, Any] = {}
    if preview := environment.get(PREVIEW_VARIABLE):
        _put(data, _PREVIEW, parse_text(preview), f"environment variable {PREVIEW_VARIABLE}")
    for name in sorted(environment):
        if not name.upper().startswith(ENVIRONMENT_PREFIX):
            continue
        parts = name[len(ENVIRONMENT_PREFIX) :].lower().split("__")
        if not all(parts):
            raise ConfigError(
                f"environment variable {name} doesn't name a key",
                f"Write {ENVIRONMENT_PREFIX}SECTION__COMPONENT__KEY.",
            )
        path = _spelled_as_in(file.data, parts)
        _put(data, path, parse_text(environment[name]), f"environment variable {name}")
    return Document("environment", data)


def _spelled_as_in(data: Any, parts: Sequence[str]) -> KeyPath:
    """Variables can't hold a slash: FLOWS_UPLINK is `flows/uplink` where the file has that."""
    path = []
    for part in parts:
        keys = data if isinstance(data, dict) else {}
        same = [key for key in keys if _plain(key) == part]
        key = same[0] if part not in keys and same else part
        path.append(key)
        data = keys.get(key)
    return tuple(path)


def _plain(key: str) -> str:
    return "".join(char if char.isalnum() else "_" for char in key.lower())


def _overrides_document(overrides: Sequence[str], file: Document) -> Document:
    data: dict[str, Any] = {}
    for override in overrides:
        dotted, equals, text = override.partition("=")
        parts = tuple(dotted.strip().split("."))
        if not equals or not all(parts):
            raise ConfigError(
                f"--set {dotted}{'=...' if equals else ''}: expected KEY.KEY=VALUE",
                "For example --set service.interval=1s.",
            )
        _put(data, parts, parse_text(text), f"--set {dotted}")
    return Document("--set", data)


def _put(data: dict[str, Any], path: KeyPath, value: Any, what: str) -> None:
    for part in path[:-1]:
        data = data.setdefault(part, {})
        if not isinstance(data, dict):
            raise ConfigError(f"{what} goes below a key that another one gives a value")
    if value == "" and len(path) == 2:
        value = {}
    data[path[-1]] = value


def _resolve(
    settings: BaseSettings,
    components: Mapping[ComponentKind, Mapping[str, Component]],
    documents: Sequence[Document],
) -> Configuration:
    service: ServiceSettings = settings.service  # type: ignore[attr-defined]
    file = documents[-1]
    errors: list[ConfigError] = []
    used: dict[ComponentKind, set[str]] = {kind: set() for kind in SECTIONS}

    def refer(kind: ComponentKind, ids: Sequence[str], path: KeyPath, signal: str = "") -> None:
        section = SECTIONS[kind]
        dotted = ".".join(path)
        where = file.where(path)
        for id_ in ids:
            component = components[kind].get(id_)
            if component is None:
                known = components[kind]
                remedy = suggestion(id_, known) or f"Add it under {section}."
                errors.append(
                    ConfigError(
                        f"'{id_}' is not defined under {section} ({where})", remedy, path=dotted
                    )
                )
            elif signal and signal not in component.signals:
                can = " and ".join(sorted(component.signals))
                errors.append(
                    ConfigError(
                        f"the {kind.value} '{id_}' can't stand in a {signal} pipeline ({where})",
                        f"It carries {can}.",
                        path=dotted,
                    )
                )
            elif ids.count(id_) > 1 and id_ not in used[kind]:
                errors.append(ConfigError(f"'{id_}' stands twice ({where})", path=dotted))
            used[kind].add(id_)

    refer(ComponentKind.EXTENSION, service.extensions, ("service", "extensions"))
    for name, pipeline in service.pipelines.items():
        path = ("service", "pipelines", name)
        signal = name.partition("/")[0]
        if signal not in SIGNALS:
            remedy = suggestion(signal, SIGNALS)
            errors.append(
                ConfigError(
                    f"unknown signal '{signal}' ({file.where(path)})", remedy, path=".".join(path)
                )
            )
            continue
        for kind in (ComponentKind.RECEIVER, ComponentKind.PROCESSOR, ComponentKind.EXPORTER):
            ids = getattr(pipeline, SECTIONS[kind])
            refer(kind, ids, (*path, SECTIONS[kind]), signal)
    raise_all(errors)

    warnings = [
        f"{section}.{id_} is defined but not used ({file.where((section, id_))})"
        for kind, section in SECTIONS.items()
        for id_ in components[kind]
        if id_ not in used[kind]
    ]
    found = {
        section: {
            id_: Instance(id_, component, getattr(getattr(settings, section), id_))
            for id_, component in components[kind].items()
            if id_ in used[kind]
        }
        for kind, section in SECTIONS.items()
    }
    chosen = (
        (section, id_, instance.settings)
        for section, instances in found.items()
        for id_, instance in instances.items()
    )
    raise_all(list(conflicts(chosen, documents)))
    for name, pipeline in service.pipelines.items():
        receivers = [components[ComponentKind.RECEIVER][id_] for id_ in pipeline.receivers]
        others = [one for named in components.values() for one in named.values()]
        warnings += unmatched(name, pipeline, receivers, others)
    warnings += _slow_collection(service, found["exporters"])
    return Configuration(**found, service=service, warnings=tuple(warnings), source=file.name)


def _slow_collection(service: ServiceSettings, exporters: Mapping[str, Instance]) -> list[str]:
    """An exporter faster than the collection would send the same values again and again."""
    return [
        f"exporters.{id_}.interval is shorter than service.interval: it sends some values twice"
        for id_, instance in exporters.items()
        if isinstance(interval := getattr(instance.settings, "interval", None), float)
        and 0 < interval < service.interval
    ]
