"""A gRPC sender that keeps one channel, sends bytes as they are, and gives an Outcome for a call.

Nothing that a backend or network does raises here. A channel is made again after a failure on the
way, and when a file of its TLS has changed.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import grpc

from retina_otel.delivery.auth.authorizer import Authorizer, Request
from retina_otel.delivery.grpc.endpoint import GrpcCompression, GrpcEndpoint, Keepalive
from retina_otel.delivery.grpc.status import BELOW_GRPC, judge_call
from retina_otel.delivery.http.header_names import shown_name
from retina_otel.delivery.http.proxies import proxy_for
from retina_otel.delivery.http.responses import accepted
from retina_otel.delivery.otlp_wire import partial_success
from retina_otel.delivery.outcome import Outcome, Result
from retina_otel.delivery.packed import Packed
from retina_otel.delivery.tls.contexts import TlsOptions, system_ca_file
from retina_otel.delivery.tls.watched import FileChanges
from retina_otel.errors import ConfigError, RetinaError

METRICS_METHOD = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export"
LOGS_METHOD = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"

_METADATA_KEY = re.compile(r"[0-9a-z_.-]+")
_STATUS_KEY = "grpc-status-details-bin"
_LARGEST_PEM = 4 << 20


@dataclass(frozen=True, slots=True)
class GrpcTarget:
    """Where requests go, and how. `headers` are not in its repr."""

    endpoint: str
    method: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    compression: GrpcCompression = GrpcCompression.GZIP
    tls: TlsOptions = field(default_factory=TlsOptions)
    insecure: bool = False
    keepalive: Keepalive | None = None
    proxy_url: str = field(default="", repr=False)

    @property
    def shown(self) -> str:
        return self.endpoint


class GrpcSender:
    """Calls one method of one backend. Used by one thread; `abort` may be called from any."""

    def __init__(
        self, target: GrpcTarget, *, user_agent: str, authorizer: Authorizer | None = None
    ) -> None:
        """Reads TLS files. Raises ConfigError if the target can't be used at all."""
        self.target = target
        try:
            self._endpoint = GrpcEndpoint.parse(target.endpoint, insecure=target.insecure)
        except ValueError as error:
            raise ConfigError(f"the endpoint can't be used: {error}") from error
        self._authorizer = authorizer
        self._metadata = _metadata(target.headers)
        self._options = _options(target, self._endpoint, user_agent)
        self._url = f"{self._endpoint.scheme}://{self._endpoint.address}{target.method}"
        self._changes = FileChanges(target.tls.files if self._endpoint.tls else ())
        self._lock = threading.Lock()
        self._channel: grpc.Channel | None = None
        self._aborted = False
        self._open()

    def pack(self, body: bytes, n_items: int) -> Packed:
        """gRPC compresses inside of its own frames, when it sends."""
        return Packed(body, "", n_items, len(body))

    def send(self, packed: Packed, timeout_s: float) -> Outcome:
        """One call, that ends within `timeout_s`, connecting included."""
        shown = self.target.shown
        if self._changes.changed():
            self._reset()
        try:
            channel = self._open()
            metadata = self._metadata
            if self._authorizer is not None:
                request = Request("POST", self._url, dict(metadata), packed.data)
                metadata += _metadata(self._authorizer.headers(request))
        except RetinaError as error:
            return Outcome(Result.RETRY, "credentials", error.message, error.remedy)
        if channel is None:
            return Outcome(Result.RETRY, "aborted", f"{shown}: the exporter is stopping")
        gzip = self.target.compression is GrpcCompression.GZIP
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(self.target.method)
        try:
            answer = call(
                packed.data,
                timeout=timeout_s,
                metadata=metadata,
                compression=grpc.Compression.Gzip if gzip else None,
            )
        except grpc.RpcError as error:
            return self._failed(error)
        except ValueError:
            if not self._aborted:
                raise
            # The channel was closed before the call began.
            return Outcome(Result.RETRY, "aborted", f"{shown}: the exporter is stopping")
        try:
            return accepted(*partial_success(answer))
        except ValueError:
            return Outcome(Result.ACCEPTED)

    def _failed(self, error: grpc.RpcError) -> Outcome:
        # What a call raises is the call itself.
        ended = cast("grpc.Call", error)
        code = ended.code()
        trailing = dict(ended.trailing_metadata() or ())
        status = trailing.get(_STATUS_KEY)
        outcome = judge_call(
            code,
            ended.details() or "",
            status if isinstance(status, bytes) else None,
            self.target.shown,
        )
        if outcome.reason in BELOW_GRPC:
            self._reset()
            if note := self.target.tls.expiry_note():
                return replace(outcome, message=f"{outcome.message} ({note})")
        if code is grpc.StatusCode.UNAUTHENTICATED and self._authorizer is not None:
            # They can change: a token may just have expired.
            self._authorizer.refused()
            return replace(outcome, result=Result.RETRY)
        return outcome

    def abort(self) -> None:
        """Ends a call that is under way; it comes back as a RETRY. Nothing is sent after."""
        with self._lock:
            self._aborted = True
        self._reset()

    def close(self) -> None:
        self._reset()

    def _reset(self) -> None:
        with self._lock:
            channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()

    def _open(self) -> grpc.Channel | None:
        """The channel; TLS files are read when it is made. None after `abort`."""
        with self._lock:
            if self._channel is None and not self._aborted:
                address = self._endpoint.address
                target = address if address.startswith("unix:") else f"dns:///{address}"
                if self._endpoint.tls:
                    credentials = _credentials(self.target.tls)
                    self._channel = grpc.secure_channel(target, credentials, self._options)
                else:
                    self._channel = grpc.insecure_channel(target, self._options)
            return self._channel


def _metadata(headers: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Headers as gRPC takes them. Raises ConfigError that names the one that it would not."""
    out = []
    for name, value in headers.items():
        key = name.lower()
        sendable = value.isascii() and value.isprintable()
        if not _METADATA_KEY.fullmatch(key) or key.startswith("grpc-") or not sendable:
            raise ConfigError(
                f"the header {shown_name(name)!r} can't be sent over gRPC",
                "Names are letters, digits, - _ and . and values one line of ASCII",
            )
        if key.endswith("-bin"):
            raise ConfigError(f"the header {name!r} would be binary", "Use a name without -bin")
        out.append((key, value))
    return tuple(out)


def _options(
    target: GrpcTarget, endpoint: GrpcEndpoint, user_agent: str
) -> list[tuple[str, int | str]]:
    options: list[tuple[str, int | str]] = [
        ("grpc.primary_user_agent", user_agent),
        # Retries are the lane's: it knows what is still worth sending.
        ("grpc.enable_retries", 0),
        ("grpc.max_send_message_length", -1),
        # A new channel has a new connection, not that of another channel to the same address.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.max_reconnect_backoff_ms", 5000),
    ]
    proxy = proxy_for(endpoint.scheme, endpoint.host, target.proxy_url)
    if proxy is not None and not endpoint.address.startswith("unix:"):
        options.append(("grpc.http_proxy", proxy))
    else:
        options.append(("grpc.enable_http_proxy", 0))
    if endpoint.tls and target.tls.server_name:
        options.append(("grpc.ssl_target_name_override", target.tls.server_name))
    if target.keepalive is not None:
        timeout_ms = int(target.keepalive.timeout_s * 1000)
        options += [
            ("grpc.keepalive_time_ms", int(target.keepalive.time_s * 1000)),
            # gRPC takes one or the other, by its version.
            ("grpc.keepalive_timeout_ms", timeout_ms),
            ("grpc.http2.ping_timeout_ms", timeout_ms),
            (
                "grpc.keepalive_permit_without_calls",
                int(target.keepalive.permit_without_stream),
            ),
            ("grpc.http2.max_pings_without_data", 0),
        ]
    return options


def _credentials(tls: TlsOptions) -> grpc.ChannelCredentials:
    """Files read now. Raises ConfigError that names the file."""
    if tls.files:
        tls.context()  # says what is wrong with a file; gRPC would not
    ca_file = tls.ca_file or system_ca_file()
    return grpc.ssl_channel_credentials(
        _read(ca_file), _read(tls.key_file or tls.cert_file), _read(tls.cert_file)
    )


def _read(path: str) -> bytes | None:
    if not path:
        return None
    try:
        with Path(path).open("rb") as file:
            return file.read(_LARGEST_PEM)
    except OSError as error:
        raise ConfigError(
            f"{path} can't be read: {error.strerror}",
            "Check the path under tls and that the agent may read the file",
        ) from error
