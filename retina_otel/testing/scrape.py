"""Reads a Prometheus endpoint inside a lab: the text of a scrape, and its samples."""

from __future__ import annotations

import http.client
import re
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from retina_otel.errors import RetinaError
from retina_otel.testing.namespaces import Namespace

_SAMPLE = re.compile(r"([^\s{]+)(?:\{(.*)\})? (\S+)")
_LABEL = re.compile(r'([^=,]+)="((?:[^"\\]|\\.)*)"')
_ESCAPE = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True)
class Sample:
    """One line of a scrape. Whole numbers below 2**53 are exact."""

    name: str
    labels: Mapping[str, str]
    value: float


def fetch(namespace: Namespace, address: str, port: int, path: str = "/metrics") -> str:
    """The body of `GET path`, asked for inside the namespace. Raises RetinaError if there is
    none."""
    connection = http.client.HTTPConnection(address, port)
    try:
        connection.sock = namespace.socket(socket.AF_INET, socket.SOCK_STREAM)
        connection.sock.settimeout(10)
        connection.sock.connect((address, port))
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read().decode()
    except (OSError, http.client.HTTPException) as error:
        raise RetinaError(f"nothing answers at {address}:{port}{path}: {error}") from error
    finally:
        connection.close()
    if response.status != http.HTTPStatus.OK:
        raise RetinaError(f"{address}:{port}{path} answers {response.status}: {body[:200]}")
    return body


def samples(text: str) -> Iterator[Sample]:
    """Every sample of a scrape in the text format or OpenMetrics. Raises RetinaError for others."""
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        found = _SAMPLE.match(line)
        if found is None:
            raise RetinaError(f"not a sample of Prometheus: {line[:200]!r}")
        name, inner, value = found.groups()
        labels = {key: _unescaped(text) for key, text in _LABEL.findall(inner or "")}
        yield Sample(name, labels, float(value))


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(lambda found: "\n" if found[1] == "n" else found[1], text)
