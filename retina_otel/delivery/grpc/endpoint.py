"""What is said of a gRPC backend before anything is sent: address, compression, pings."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from urllib.parse import urlsplit


class GrpcCompression(Enum):
    GZIP = "gzip"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Keepalive:
    """Pings while a request is under way, or also in between."""

    time_s: float
    timeout_s: float
    permit_without_stream: bool = False


@dataclass(frozen=True, slots=True)
class GrpcEndpoint:
    """An address as gRPC takes it. http:// is without TLS and https:// with; without a scheme it is
    with, unless `insecure`; a unix socket is without."""

    address: str
    host: str
    tls: bool

    @property
    def scheme(self) -> str:
        return "https" if self.tls else "http"

    @classmethod
    def parse(cls, text: str, *, insecure: bool = False) -> GrpcEndpoint:
        """Raises ValueError with what is wrong and how it is written, without the endpoint."""
        if text.startswith("unix:"):
            path = text.removeprefix("unix:")
            if not path.strip("/"):
                raise ValueError("it names no socket: write unix:///path/of/socket")
            if path.startswith("//") and not path.startswith("///"):
                # gRPC takes what stands there for a host, and refuses it at each request.
                raise ValueError("its path does not begin with /: write unix:///path/of/socket")
            return cls(f"unix:{path}", "localhost", tls=False)
        written = "write host:4317, http://host:4317 or https://host:4317"
        try:
            parts = urlsplit(text if "://" in text else f"//{text}")
        except ValueError:
            raise ValueError(f"it is no gRPC endpoint: {written}") from None
        if parts.scheme not in {"", "http", "https"} or not parts.hostname:
            raise ValueError(f"it is no gRPC endpoint: {written}")
        if parts.username is not None:
            raise ValueError("a gRPC endpoint holds no user: use auth.basic")
        if parts.path not in {"", "/"} or parts.query or parts.fragment:
            raise ValueError(f"a gRPC endpoint has no path: {written}")
        try:
            port = parts.port
        except ValueError:
            port = None
        if not port:
            raise ValueError(f"it has no valid port, commonly 4317: {written}")
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        tls = parts.scheme == "https" or (not parts.scheme and not insecure)
        return cls(f"{host}:{port}", parts.hostname, tls)
