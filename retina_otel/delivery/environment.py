"""The standard OTEL_EXPORTER_OTLP_* variables, by the OpenTelemetry specification's rules.

They stand below explicit configuration and above built-in defaults; the form for one signal stands
above the general form. A general endpoint is a base to which `v1/<signal>` is added, an endpoint
for one signal is taken as it stands. Values that make no sense are refused, naming the variable.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote

from retina_otel.delivery.compression import Compression
from retina_otel.delivery.grpc.endpoint import GrpcEndpoint
from retina_otel.delivery.http.header_names import is_header_name
from retina_otel.errors import ConfigError
from retina_otel.pipeline.points import Temporality

DEFAULT_ENDPOINT = "http://localhost:4318"


@dataclass(frozen=True, slots=True)
class OtlpEnvironment:
    """The variables as they hold for one signal: "metrics" or "logs"."""

    variables: Mapping[str, str]
    signal: str

    def _find(self, name: str) -> tuple[str, str]:
        """(variable, value) of the most special one that is set; an empty value counts as unset."""
        for variable in (
            f"OTEL_EXPORTER_OTLP_{self.signal.upper()}_{name}",
            f"OTEL_EXPORTER_OTLP_{name}",
        ):
            value = self.variables.get(variable, "").strip()
            if value:
                return variable, value
        return "", ""

    @property
    def url(self) -> str | None:
        variable, value = self._find("ENDPOINT")
        if not value:
            return None
        own = variable != "OTEL_EXPORTER_OTLP_ENDPOINT"
        _check_url(variable, value, "" if own else f"/v1/{self.signal}")
        return value if own else signal_url(value, self.signal)

    def check(self, *, grpc: bool) -> None:
        """Raises ConfigError for a variable that makes no sense to an exporter of this protocol."""
        _ = (self.headers, self.timeout_s, self.compression)
        if not grpc:
            _ = self.url
        elif self.endpoint[1]:
            variable, value = self.endpoint
            try:
                GrpcEndpoint.parse(value, insecure=self.insecure)
            except ValueError as error:
                raise ConfigError(f"{variable}: {error}") from None

    @property
    def headers(self) -> dict[str, str]:
        variable, text = self._find("HEADERS")
        headers: dict[str, str] = {}
        for pair in filter(None, (part.strip() for part in text.split(","))):
            name, separator, value = pair.partition("=")
            name = unquote(name.strip())
            if not separator or not is_header_name(name):
                # The pair itself stays out of the message: it may be a secret.
                raise ConfigError(
                    f"{variable} is not a list of name=value pairs",
                    'Write headers as "name=value,other=value", values percent-encoded',
                )
            headers[name] = unquote(value.strip())
        return headers

    @property
    def timeout_s(self) -> float | None:
        return milliseconds(*self._find("TIMEOUT"))

    @property
    def protocol(self) -> tuple[str, str]:
        """(variable, value) of the protocol that is asked for; empty where none is."""
        return self._find("PROTOCOL")

    @property
    def endpoint(self) -> tuple[str, str]:
        """(variable, value) of the endpoint as it stands, for gRPC, which has no paths."""
        return self._find("ENDPOINT")

    @property
    def insecure(self) -> bool:
        """Whether gRPC goes without TLS to an endpoint that has no scheme."""
        variable, value = self._find("INSECURE")
        if value.lower() not in {"", "true", "false"}:
            raise ConfigError(f"{variable} is {value!r}", "Use true or false")
        return value.lower() == "true"

    @property
    def compression(self) -> Compression | None:
        variable, value = self._find("COMPRESSION")
        if not value:
            return None
        known = {each.value: each for each in Compression if each is not Compression.SNAPPY}
        if value.lower() not in known:
            raise ConfigError(
                f"{variable} is {value!r}, which OTLP is not compressed with",
                f"Use one of: {', '.join(known)}",
            )
        return known[value.lower()]

    @property
    def certificate(self) -> str:
        return self._find("CERTIFICATE")[1]

    @property
    def client_certificate(self) -> str:
        return self._find("CLIENT_CERTIFICATE")[1]

    @property
    def client_key(self) -> str:
        return self._find("CLIENT_KEY")[1]


def temporality_preference(variables: Mapping[str, str]) -> Temporality:
    """Raises ConfigError for a word that is none."""
    name = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE"
    value = variables.get(name, "").strip()
    try:
        return Temporality(value.lower() or "cumulative")
    except ValueError:
        raise ConfigError(f"{name} is {value!r}", "Use cumulative, delta or lowmemory") from None


def _check_url(variable: str, url: str, added: str) -> None:
    """Raises ConfigError if nothing can be sent to it. `added` is the path that is added to it."""
    # Imported where an endpoint is named: it brings an HTTP library.
    from retina_otel.delivery.http.sender import fault_of_url, shown_url

    # Of what is no URL nobody knows which part is the password.
    shown = "" if "@" in url or "?" in url else f" is {url!r}, which"
    if fault := fault_of_url(url):
        path = "" if added else "/v1/metrics" if "METRICS" in variable else "/v1/logs"
        raise ConfigError(
            f"{variable}{shown} {fault}",
            f"Write it as http://host:4318{path} or https://host:4318{path}",
        )
    base, found, rest = url.rstrip("/").rpartition(added) if added else ("", "", "")
    if found and not rest:
        special = f"OTEL_EXPORTER_OTLP_{added.rpartition('/')[2].upper()}_ENDPOINT"
        raise ConfigError(
            f"{variable} is {shown_url(url)!r}, to which {added} is added",
            f"Write {shown_url(base)}, or set {special} instead",
        )


def signal_url(base: str, signal: str) -> str:
    """Where a signal goes below a base endpoint; a query of the base stays at the end."""
    address, question, query = base.partition("?")
    return f"{address.rstrip('/')}/v1/{signal}{question}{query}"


def milliseconds(variable: str, value: str) -> float | None:
    """Seconds from a variable that holds milliseconds, as OTEL_* durations do; None if unset."""
    if not value:
        return None
    if not (value.isascii() and value.isdigit()) or int(value) == 0:
        raise ConfigError(
            f"{variable} is {value!r}", "Set it to a number of milliseconds above zero, as 10000"
        )
    return int(value) / 1000
