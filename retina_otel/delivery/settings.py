"""Settings that push exporters share: TLS, retries, proof of who sends, named as a Collector's."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, WithJsonSchema
from pydantic_core import PydanticCustomError

from retina_otel.delivery.auth.settings import AuthSettings
from retina_otel.delivery.compression import Compression
from retina_otel.delivery.grpc.endpoint import GrpcEndpoint, Keepalive
from retina_otel.delivery.http.header_names import is_header_name, shown_name
from retina_otel.delivery.http.proxies import fault_of_proxy
from retina_otel.delivery.http.sender import fault_of_url, fits_a_header, shown_url
from retina_otel.delivery.retry import RetryPolicy
from retina_otel.delivery.strict import StrictSettings
from retina_otel.delivery.tls.contexts import TlsOptions, TlsVersion
from retina_otel.model.durations import Duration, PositiveDuration

__all__ = [
    "AuthSettings",
    "BaseUrl",
    "GrpcAddress",
    "GrpcTlsSettings",
    "Headers",
    "HttpUrl",
    "KeepaliveSettings",
    "OtlpCompression",
    "ProxyUrl",
    "RetrySettings",
    "TlsSettings",
    "check_tls_is_used",
]


def _http_url(url: str) -> str:
    if fault := fault_of_url(url):
        raise ValueError(f"it {fault}: write http://host:4318 or https://host:4318")
    return url


HttpUrl = Annotated[str, AfterValidator(_http_url)]
"""An endpoint that requests can be sent to."""


def _base_url(url: str) -> str:
    for signal in ("metrics", "logs"):
        base, added, rest = url.rstrip("/").rpartition(f"/v1/{signal}")
        if added and not rest:
            raise ValueError(
                f"/v1/{signal} is added to it: write {shown_url(base)}, or {signal}_endpoint "
                "instead of endpoint"
            )
    return url


BaseUrl = Annotated[HttpUrl, AfterValidator(_base_url)]
"""An endpoint to whose path that of each signal is added."""


def _grpc_endpoint(text: str) -> str:
    GrpcEndpoint.parse(text)
    return text


GrpcAddress = Annotated[str, AfterValidator(_grpc_endpoint)]
"""An endpoint that gRPC can call."""


def _proxy_url(url: SecretStr) -> SecretStr:
    text = url.get_secret_value()
    if text and (fault := fault_of_proxy(text)):
        raise ValueError(fault)
    return url


ProxyUrl = Annotated[SecretStr, AfterValidator(_proxy_url)]
"""A proxy on the way to an endpoint."""


_OF_THE_REQUEST = frozenset({"content-length", "transfer-encoding", "content-encoding"})
"""Headers that say what the body is: with others the backend could not read it."""


def _named(headers: dict[str, SecretStr]) -> dict[str, SecretStr]:
    seen: dict[str, str] = {}
    for name, value in headers.items():
        if not is_header_name(name):
            raise ValueError(
                f"the header {shown_name(name)!r} can't be sent: names are letters, digits, - and "
                "_, without a colon"
            )
        if name.lower() in _OF_THE_REQUEST:
            raise ValueError(f"the header {name} belongs to the request itself: leave it out")
        if name.lower() in seen:
            raise ValueError(f"the headers {seen[name.lower()]} and {name} are one: keep one")
        if not fits_a_header(value.get_secret_value()):
            raise ValueError(
                f"the value of the header {name} can't be sent: write one line of Latin-1, without "
                "a line break at its end"
            )
        seen[name.lower()] = name
    return headers


Headers = Annotated[dict[str, SecretStr], AfterValidator(_named)]
"""Headers of each request, by name."""


def _of_otlp(value: Any) -> Any:
    # Before pydantic's own list, which has snappy in it.
    if value not in {"auto", "gzip", "zstd", "none"} and not isinstance(value, Compression):
        raise PydanticCustomError("enum", "Input should be 'auto', 'gzip', 'zstd' or 'none'")
    return value


OtlpCompression = Annotated[
    Compression,
    BeforeValidator(_of_otlp),
    WithJsonSchema({"enum": ["auto", "gzip", "zstd", "none"], "type": "string"}),
]


class TlsFilesSettings(StrictSettings):
    """Files of TLS, read again when they change."""

    ca_file: str = ""
    """PEM file of the CAs to trust. Empty: OTEL_EXPORTER_OTLP_CERTIFICATE, else the system's."""

    cert_file: str = ""
    """PEM file of the client certificate, where the backend wants one. Empty:
    OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE, else none."""

    key_file: str = ""
    """PEM file of the certificate's key, unencrypted. Empty: OTEL_EXPORTER_OTLP_CLIENT_KEY."""

    server_name_override: str = ""
    """The name that the server's certificate must carry, when it is not the endpoint's host."""

    def options(self, ca_file: str = "", cert_file: str = "", key_file: str = "") -> TlsOptions:
        """Options with the given files where the settings name none."""
        own_pair = bool(self.cert_file or self.key_file)
        return TlsOptions(
            ca_file=self.ca_file or ca_file,
            cert_file=self.cert_file if own_pair else cert_file,
            key_file=self.key_file if own_pair else key_file,
            server_name=self.server_name_override,
        )


class TlsSettings(TlsFilesSettings):
    """TLS towards the backend, used when the endpoint's scheme is https. Files are read again when
    they change."""

    insecure_skip_verify: bool = False
    """Take any certificate. For trials only: anybody on the way can read and change what is sent.
    A warning is logged."""

    min_version: TlsVersion = TlsVersion.TLS_1_2
    """Oldest TLS version to speak: "1.2" or "1.3"."""

    def options(self, ca_file: str = "", cert_file: str = "", key_file: str = "") -> TlsOptions:
        return replace(
            super().options(ca_file, cert_file, key_file),
            insecure_skip_verify=self.insecure_skip_verify,
            min_version=self.min_version,
        )


class GrpcTlsSettings(TlsFilesSettings):
    """TLS towards the backend, used with https:// endpoints and those without a scheme. Files are
    read again when they change. gRPC speaks TLS 1.2 and 1.3, and always checks the server."""

    insecure: bool | None = None
    """No TLS for an endpoint without a scheme. Not set: OTEL_EXPORTER_OTLP_INSECURE, else false."""


def check_tls_is_used(tls: TlsFilesSettings, endpoints: Iterable[str]) -> None:
    """Raises ValueError if there are certificates and all endpoints are without TLS: what is meant
    to go encrypted would not."""
    given = list(endpoints)
    files = tls.ca_file or tls.cert_file or tls.key_file
    if files and given and all(one.startswith("http:") for one in given):
        raise ValueError(
            f"tls is set, but {shown_url(given[0])} is without TLS: write https://, or leave tls "
            "out"
        )


class KeepaliveSettings(StrictSettings):
    """Pings, so that a connection that died without a word is noticed before a timeout. A server
    may close connections that ping more often than it allows; Go's allow one in 5 minutes unless
    they are set up otherwise."""

    time: PositiveDuration = Field(default="5m", validate_default=True)
    """Silence after which to ping."""

    timeout: PositiveDuration = Field(default="20s", validate_default=True)
    """How long to wait for the answer to a ping."""

    permit_without_stream: bool = False
    """Also while no request is under way."""

    def keepalive(self) -> Keepalive:
        return Keepalive(self.time, self.timeout, self.permit_without_stream)


class RetrySettings(StrictSettings):
    """What to do when the backend can't take a request now (429, 502, 503, 504, no connection).

    Delays grow exponentially and are drawn at random below their bound, so that many agents do not
    return at once; a Retry-After of the backend is waited for instead, and up to a tenth longer.
    """

    initial_interval: PositiveDuration = Field(default="1s", validate_default=True)
    """Bound of the delay after the first failure."""

    max_interval: PositiveDuration = Field(default="30s", validate_default=True)
    """Bound of all delays."""

    max_elapsed_time: Duration = Field(default="5m", validate_default=True)
    """How long one request is tried. Metrics are then taken anew, so nothing is lost; events are
    given up and counted. 0 tries for ever (events then wait in their bounded buffer)."""

    def policy(self) -> RetryPolicy:
        return RetryPolicy(
            initial_s=self.initial_interval,
            max_s=max(self.initial_interval, self.max_interval),
            max_elapsed_s=self.max_elapsed_time,
        )
