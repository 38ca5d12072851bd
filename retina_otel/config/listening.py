"""Components that would listen on one port: the second could not, and only the kernel would say so,
at the start."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from retina_otel.config.document import Document
from retina_otel.errors import ConfigError
from retina_otel.serving.address import is_listen_address, parse_address

if TYPE_CHECKING:
    from pydantic import BaseModel


def conflicts(
    settings: Iterable[tuple[str, str, BaseModel]], documents: Sequence[Document]
) -> Iterator[ConfigError]:
    """One error for each component that is not the first on its port. `settings` come with their
    section and id, `documents` with the highest precedence first."""
    taken: list[tuple[str, int, str]] = []
    for section, id_, model in settings:
        for name, field in type(model).model_fields.items():
            if not is_listen_address(field):
                continue
            address = str(getattr(model, name))
            host, port = parse_address(address)
            path = (section, id_, name)
            for other_host, other_port, other in taken:
                if port and port == other_port and _overlap(host, other_host):
                    yield ConfigError(
                        f"{address} is what {other} listens on ({_where(path, documents)})",
                        "Choose another port.",
                        path=".".join(path),
                    )
                    break
            taken.append((host, port, f"{section}.{id_}"))


def _overlap(one: str, other: str) -> bool:
    """Whether who listens on one address takes the other one's port. Only of one name we know what
    it stands for."""
    one, other = ("127.0.0.1" if each == "localhost" else each for each in (one, other))
    if one == other:
        return True
    try:
        first, second = ipaddress.ip_address(one), ipaddress.ip_address(other)
    except ValueError:
        return False
    same_family = first.version == second.version
    return same_family and (first.is_unspecified or second.is_unspecified)


def _where(path: tuple[str, str, str], documents: Sequence[Document]) -> str:
    section, id_, name = path
    for document in documents:
        entry = document.data.get(section, {}).get(id_)
        if isinstance(entry, dict) and name in entry:
            return document.where(path)
    return documents[-1].where(path)
