"""Where a server listens, as settings say it."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator
from pydantic.fields import FieldInfo


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of "host:port", "[::1]:port" or ":port" (all addresses). Raises ValueError."""
    host, separator, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        separator = ""
    if not separator or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError("it is no address and port: write it as 127.0.0.1:10093 or [::1]:10093")
    return host or "0.0.0.0", int(port)


def _address(text: str) -> str:
    parse_address(text)
    return text


ListenAddress = Annotated[str, AfterValidator(_address)]
"""Where to listen, in settings: checked with them, kept as it was written."""


def is_listen_address(field: FieldInfo) -> bool:
    """Whether a field of settings says where to listen."""
    return any(getattr(one, "func", None) is _address for one in field.metadata)


def _page_path(text: object) -> object:
    if isinstance(text, str) and not text.startswith("/"):
        raise ValueError(f"it does not begin with /: write it as /{text}")
    return text


PagePath = Annotated[str, BeforeValidator(_page_path)]
"""The path of a page, in settings."""
