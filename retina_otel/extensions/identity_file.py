"""The file of the `static_identity` extension: what it may say, and errors a person can act on.

    node: {name: node-1, uid: 4f1c..., addresses: [172.30.0.2, "fd00::2"]}
    nodes: [{name: node-2, addresses: [172.30.0.3]}]       # other nodes
    pods:
      - namespace: shop
        name: web-0
        uid: 0b7e...
        node: node-1                # this node, if left out
        addresses: [10.244.0.10]
        netns: /run/netns/web       # path or inode, of a pod on this node
        interface: veth3f2a1c       # the node's end of its wire
        owner: {kind: Deployment, name: web}
        labels: {app: web}
    services: [{namespace: shop, name: api, addresses: [10.96.0.7]}]
    cidrs: [{name: office, cidr: 192.0.2.0/24}]

Every list may be left out. Unknown keys are errors that name the nearest known one.
"""

from __future__ import annotations

import difflib
import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, get_args

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from retina_otel.errors import ConfigError
from retina_otel.model.text_files import read_text


def _address(text: str) -> str:
    return str(ipaddress.ip_address(text))


def _network(text: str) -> str:
    return str(ipaddress.ip_network(text, strict=False))


Address = Annotated[str, AfterValidator(_address)]
Network = Annotated[str, AfterValidator(_network)]
Name = Annotated[str, Field(min_length=1)]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class OwnerEntry(_Entry):
    """The workload at the top of a pod's chain of owners."""

    kind: Name
    name: Name


class NodeEntry(_Entry):
    name: Name
    uid: str = ""
    addresses: tuple[Address, ...] = ()
    """On top of the addresses of the node's own interfaces, where it is this node."""


class PodEntry(_Entry):
    namespace: Name = "default"
    name: Name
    uid: str = ""
    node: str = ""
    """Name of the node it runs on; this node if left out."""
    addresses: tuple[Address, ...] = ()
    netns: Annotated[str | int | None, Field(union_mode="left_to_right")] = None
    """Path or inode of its network namespace."""
    interface: str = ""
    """Name of the node's end of its wire."""
    owner: OwnerEntry | None = None
    labels: dict[str, str] = Field(default_factory=dict)


class ServiceEntry(_Entry):
    namespace: Name = "default"
    name: Name
    uid: str = ""
    addresses: tuple[Address, ...] = ()


class CidrEntry(_Entry):
    name: Name
    cidr: Network


class IdentityFile(_Entry):
    """All of the file."""

    node: NodeEntry | None = None
    """The node on which the agent runs."""
    nodes: tuple[NodeEntry, ...] = ()
    """Other nodes."""
    pods: tuple[PodEntry, ...] = ()
    services: tuple[ServiceEntry, ...] = ()
    cidrs: tuple[CidrEntry, ...] = ()


def read_identity_file(path: Path) -> IdentityFile:
    """Raises ConfigError with every fault in the file, each by the path of its key."""
    try:
        document = yaml.safe_load(read_text(path))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(
            f"{path} can't be read: {reason}", "Check `path` of the static_identity extension"
        ) from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {_one_line(error)}", "Correct the file") from error
    if document is None:
        document = {}
    try:
        return IdentityFile.model_validate(document)
    except ValidationError as error:
        faults = "; ".join(dict.fromkeys(_faults(error, document)))
        raise ConfigError(f"{path}: {faults}", "Correct the file") from error


def _one_line(error: yaml.YAMLError) -> str:
    return " ".join(str(error).split())


_SHAPES = {
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "string_type": "text",
}


def _faults(error: ValidationError, document: object) -> Iterator[str]:
    for fault in error.errors(include_url=False, include_context=False):
        path = _existing_path(fault["loc"], document)
        where = ".".join(map(str, path)) or "the file"
        if fault["type"] == "extra_forbidden":
            known = _known_keys(path[:-1])
            close = difflib.get_close_matches(str(path[-1]), known, n=1, cutoff=0.6)
            hint = f"did you mean '{close[0]}'?" if close else f"known here: {', '.join(known)}"
            yield f"{where}: unknown key, {hint}"
        elif fault["type"] in _SHAPES:
            yield f"{where}: {_SHAPES[fault['type']]} is expected"
        else:
            yield f"{where}: {fault['msg'].removeprefix('Value error, ')}"


def _existing_path(location: Sequence[int | str], document: object) -> list[int | str]:
    """A fault's location without the branch names that pydantic adds for unions."""
    path: list[int | str] = []
    for part in location:
        if isinstance(document, Mapping) or (isinstance(document, list) and isinstance(part, int)):
            path.append(part)
            document = _child(document, part)
    return path


def _child(document: Mapping[Any, Any] | list[Any], part: int | str) -> object:
    if isinstance(document, Mapping):
        return document.get(part)
    return document[part] if isinstance(part, int) else None


def _known_keys(path: Sequence[int | str]) -> list[str]:
    model: Any = IdentityFile
    for part in path:
        if isinstance(part, int):
            continue
        annotation = model.model_fields[part].annotation
        model = next(
            kind
            for kind in (annotation, *get_args(annotation))
            if isinstance(kind, type) and issubclass(kind, BaseModel)
        )
    return list(model.model_fields)
