"""YAML text to plain data, with the line of each key and `${env:NAME}` expanded.

Scalars are read by YAML 1.2's core schema, as the Collector reads them: `off` and `no` are words,
`15:30` is not a number in base sixty. What comes from the environment stays text (the settings turn
it into numbers where they want numbers), unless it is a flow list or mapping.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from retina_otel.config.registry import suggestion
from retina_otel.errors import ConfigError
from retina_otel.model.text_files import read_text

KeyPath = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Document:
    """One source of configuration. `lines` tells where in `name` each key stands, from 1; of merged
    files `parts` are the files, the last one first."""

    name: str
    data: dict[str, Any]
    lines: Mapping[KeyPath, int] = field(default_factory=dict)
    parts: tuple[Document, ...] = ()

    def where(self, path: KeyPath) -> str:
        """`file:line` of the key, or of the nearest one around it."""
        for length in range(len(path), 0, -1):
            for one in self.parts or (self,):
                if line := one.lines.get(path[:length]):
                    return f"{one.name}:{line}"
        return self.name

    def over(self, below: Document) -> Document:
        """This one merged over another, as a Collector does it: mappings key by key, of all else,
        lists too, this one's value is left."""
        return Document(
            f"{below.name}, {self.name}",
            _merged(below.data, self.data),
            parts=((self.parts or (self,)) + (below.parts or (below,))),
        )


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    out = dict(below)
    for key, value in above.items():
        known = out.get(key)
        if isinstance(known, dict) and value is None:
            continue  # an empty section or component adds nothing
        if isinstance(known, dict) and isinstance(value, dict):
            out[key] = _merged(known, value)
        else:
            out[key] = value
    return out


class _Loader(yaml.SafeLoader):
    """SafeLoader with the scalars of YAML 1.2's core schema."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int",
    re.compile(r"^[-+]?(?:0|[1-9][0-9]*|0x[0-9a-fA-F]+)$"),
    list("-+0123456789"),
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)$"),
    list("-+0123456789."),
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:merge", re.compile(r"^<<$"), ["<"])


def read_document(path: Path, environment: Mapping[str, str]) -> Document:
    """Reads a file. Raises ConfigError if it can't be read or isn't a YAML mapping."""
    try:
        text = read_text(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(
            f"{path} can't be read: {reason[:1].lower()}{reason[1:]}",
            "Check the path and its permissions.",
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text", "Save it as UTF-8.") from error
    return parse_document(text, str(path), environment)


def parse_document(text: str, name: str, environment: Mapping[str, str]) -> Document:
    """Parses text. Raises ConfigError with line and column of what is wrong."""
    try:
        loader = _Loader(text)
        try:
            root = loader.get_single_node()
            if root is None:
                return Document(name, {})
            lines: dict[KeyPath, int] = {}
            _read_keys(root, (), lines, name)
            data = loader.construct_document(root)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "an unknown place"
        problem = (error.problem or error.context or "invalid YAML").strip()
        remedy = "Check indentation and quotes there."
        if mark and "${" in "".join(text.splitlines()[mark.line : mark.line + 1]):
            remedy = "Inside { } or [ ], put quotes around ${env:NAME}."
        raise ConfigError(f"{name} is not valid YAML: {where}: {problem}", remedy) from error
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{name} is not valid YAML: {reason}") from error
    except RecursionError as error:
        raise ConfigError(f"{name} is nested too deeply", "Flatten it.") from error
    if not isinstance(data, dict):
        raise ConfigError(
            f"{name} holds a {_type_name(data)}, expected a mapping",
            "Its keys are receivers, processors, exporters, extensions and service.",
        )
    document = Document(name, data, lines)
    return Document(name, _expand(data, (), document, environment), lines)


def _read_keys(
    node: yaml.Node, path: KeyPath, lines: dict[KeyPath, int], name: str, depth: int = 0
) -> None:
    """Notes the line of each key; refuses a key that stands twice in one mapping, as YAML does."""
    if depth > 100:
        raise RecursionError
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _read_keys(item, (*path, str(index)), lines, name, depth + 1)
        return
    if not isinstance(node, yaml.MappingNode):
        return
    seen: dict[str, int] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            continue
        line = key.start_mark.line + 1
        if key.value in seen and key.value != "<<":
            raise ConfigError(
                f"{name}:{line}: the key stands twice, first in line {seen[key.value]}",
                "Remove one of them.",
                path=".".join((*path, key.value)),
            )
        seen[key.value] = line
        lines[(*path, key.value)] = line
        _read_keys(value, (*path, key.value), lines, name, depth + 1)


_REFERENCE = re.compile(r"\$\$|\$\{(?P<body>[^}]*)\}")
_NAME = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")


def _expand(value: Any, path: KeyPath, document: Document, environment: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {
            str(key): _expand(item, (*path, str(key)), document, environment)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [
            _expand(item, (*path, str(i)), document, environment) for i, item in enumerate(value)
        ]
    if not isinstance(value, str) or "$" not in value:
        return value

    def replace(match: re.Match[str]) -> str:
        body = match["body"]
        if body is None:
            return "$"
        return _variable(body, path, document, environment)

    expanded = _REFERENCE.sub(replace, value)
    return parse_text(expanded) if expanded != value else value


def _variable(body: str, path: KeyPath, document: Document, environment: Mapping[str, str]) -> str:
    scheme, separator, rest = body.partition(":")
    if not separator or rest.startswith("-"):
        scheme, rest = "env", body
    name, has_default, default = rest.partition(":-")
    where = ".".join(path)
    if scheme != "env":
        raise ConfigError(
            f"{document.where(path)}: ${{{body}}}: unknown source '{scheme}'",
            "Only ${env:NAME} and ${env:NAME:-default} are expanded; write $$ for a dollar sign.",
            path=where,
        )
    if not _NAME.match(name):
        raise ConfigError(
            f"{document.where(path)}: ${{{body}}} doesn't name an environment variable",
            "Write ${env:NAME}, or $$ for a dollar sign.",
            path=where,
        )
    if name in environment and (environment[name] or not has_default):
        return environment[name]
    if has_default:
        return default
    close = suggestion(name, [known for known in environment if known[:3] == name[:3]])
    remedy = f"Set {name}, or give a default: ${{env:{name}:-value}}."
    if close.startswith("Did"):
        remedy = f"{remedy} {close}"
    raise ConfigError(
        f"{document.where(path)}: environment variable {name} is not set", remedy, path=where
    )


def parse_text(text: str) -> Any:
    """A value given as text (environment, `--set`): flow lists and mappings are read as YAML."""
    if text.strip()[:1] not in ("[", "{"):
        return text
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError:
        return text


def _type_name(value: Any) -> str:
    names = {list: "list", str: "text", bool: "boolean", int: "number", float: "number"}
    return names.get(type(value), type(value).__name__)
