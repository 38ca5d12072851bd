"""Sends packed envelopes to Azure Monitor through the client of Azure's own exporter.

Its pipeline adds what Azure wants (tokens, user agent, request ids); the end of it is ours: one
connection, a bounded answer, a timeout for the whole, and a socket that can be cut. Nothing that
Azure, Entra or the network does raises here.
"""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from http.client import HTTPException
from typing import Any
from urllib.parse import SplitResult, urlsplit

import urllib3
from azure.core.exceptions import AzureError
from azure.monitor.opentelemetry.exporter import AzureMonitorMetricExporter
from urllib3.exceptions import HTTPError, InsecureRequestWarning

from retina_otel.delivery.auth.azure_identity import NO_TOKEN
from retina_otel.delivery.compression import Compression, Compressor
from retina_otel.delivery.http.connections import Connections, explain
from retina_otel.delivery.http.proxies import proxy_for
from retina_otel.delivery.http.responses import Response
from retina_otel.delivery.outcome import Clock, Outcome, Result
from retina_otel.delivery.packed import Packed
from retina_otel.delivery.tls.contexts import TlsOptions
from retina_otel.errors import RetinaError
from retina_otel.exporters.azure_monitor.answers import judge
from retina_otel.exporters.azure_monitor.connection_string import ConnectionString
from retina_otel.exporters.azure_monitor.envelopes import taken_apart, together
from retina_otel.exporters.azure_monitor.sdk import Answer, Transport, quiet

_MOST_REDIRECTS = 5
_SHORTEST_S = 0.1
_MAX_ANSWER_BYTES = 4 << 20
"""An answer to a part of a request has a line for each envelope that was refused: some 400 bytes
for each of the 10,000 that a request may have at most."""
_AZURE = (
    ".applicationinsights.azure.com",
    ".applicationinsights.azure.cn",
    ".applicationinsights.azure.us",
    ".monitor.azure.com",
    ".monitor.azure.cn",
    ".monitor.azure.us",
    ".services.visualstudio.com",
)
"""A redirect leads to the same host, or from one of these to another of the same: it carries what
proves who sends."""


class IngestionSender:
    """One resource of Application Insights. Used by one thread; `abort` may be called from any."""

    def __init__(
        self,
        target: ConnectionString,
        *,
        clock: Clock,
        tls: TlsOptions,
        proxy_url: str = "",
        credential: Any = None,
    ) -> None:
        """Raises ConfigError if TLS files or the connection string can't be used."""
        self.shown = target.endpoint
        self._key = target.instrumentation_key
        self._clock = clock
        self._compressor = Compressor(Compression.GZIP)
        if tls.insecure_skip_verify:
            urllib3.disable_warnings(InsecureRequestWarning)  # said once, by the exporter
        self._network = _Network(target.endpoint, tls, proxy_url)
        self._client = quiet(AzureMonitorMetricExporter, target, self._network, credential).client

    def pack(self, body: bytes, n_items: int) -> Packed:
        data, encoding = self._compressor.compress(body)
        return Packed(data, encoding, n_items, len(body))

    def send(self, packed: Packed, timeout_s: float) -> Outcome:
        """Posts a request: connecting, sending and the answer, all within `timeout_s`. Getting a
        token has its own timeouts."""
        self._network.begin(timeout_s)
        headers = {"Content-Encoding": packed.encoding} if packed.encoding else {}
        refusal: Exception | None = None
        try:
            # Bytes are read as a file is, though only files are declared.
            self._client.track(packed.data, headers=headers)  # type: ignore[call-overload]
        except (AzureError, ValueError) as error:
            refusal = error  # of the answer, which we read ourselves, or for lack of a token
        except (HTTPError, HTTPException, OSError) as error:
            self._network.reset()
            return explain(error, self.shown)
        except RetinaError as error:
            return Outcome(Result.RETRY, "tls_files", error.message, error.remedy)
        except Exception:
            # Theirs stumbled over an answer: the request came there all the same.
            if self._network.answer is None:
                raise
        answer = self._network.answer
        if answer is None:
            return self._no_token(refusal)
        verdict = judge(answer, packed.n_items, self.shown, self._clock.wall_ns())
        outcome = replace(
            verdict.outcome, message=verdict.outcome.message.replace(self._key, "<key>")
        )
        if verdict.again:
            envelopes = taken_apart(packed.body())
            left = [envelopes[index] for index in verdict.again]
            return replace(outcome, remainder=self.pack(together(left), len(left)))
        return outcome

    def abort(self) -> None:
        self._network.abort()

    def close(self) -> None:
        self._network.reset()

    def _no_token(self, refusal: Exception | None) -> Outcome:
        said = str(refusal).partition("\n")[0].strip() or "no token"
        return Outcome(
            Result.RETRY,
            "credentials",
            f"{self.shown}: not sent, for Entra gives no token: {said}",
            NO_TOKEN,
        )


class _Network(Transport):
    """Posts over one connection, and follows redirects to where Azure may lead."""

    def __init__(self, endpoint: str, tls: TlsOptions, proxy_url: str) -> None:
        self.answer: Response | None = None
        """The last one since `begin`."""
        self._tls = tls
        self._proxy_url = proxy_url
        self._timeout_s = 0.0
        self._aborted = threading.Event()
        self._configured = self._origin = urlsplit(endpoint)
        self._connections = self._connect()

    def begin(self, timeout_s: float) -> None:
        self.answer = None
        self._timeout_s = timeout_s

    def send(self, request: Any, **options: Any) -> Answer:
        path = urlsplit(request.url).path
        deadline = time.monotonic() + self._timeout_s
        for _ in range(_MOST_REDIRECTS):
            self.answer = self._post(path, request.content, dict(request.headers), deadline)
            place = urlsplit(self.answer.header("Location") or "")
            if self.answer.status not in {307, 308} or not self._may_lead_to(place):
                break
            self._move(place)
        assert self.answer is not None
        return Answer(request, self.answer)

    def reset(self) -> None:
        """Closes; the next request opens a new connection, to the configured endpoint."""
        self._connections.reset()
        if self._origin != self._configured:
            self._move(self._configured)

    def abort(self) -> None:
        self._aborted.set()
        self._connections.abort()

    def _post(self, path: str, body: bytes, headers: dict[str, str], deadline: float) -> Response:
        if self._aborted.is_set():
            raise ConnectionAbortedError("the exporter is stopping")
        left_s = max(_SHORTEST_S, deadline - time.monotonic())
        try:
            with self._connections.within(left_s):
                return self._answered(path, body, headers, left_s)
        except (HTTPError, HTTPException, OSError):
            if time.monotonic() < deadline or self._aborted.is_set():
                raise
        raise TimeoutError  # what was cut for it says something else

    def _answered(
        self, path: str, body: bytes, headers: dict[str, str], timeout_s: float
    ) -> Response:
        answer = self._connections.pool().urlopen(
            "POST",
            self._connections.path(path),
            body=body,
            headers=headers,
            timeout=urllib3.Timeout(total=timeout_s),
            retries=False,
            redirect=False,
            assert_same_host=False,
            preload_content=False,
            decode_content=True,
        )
        try:
            text = answer.read(_MAX_ANSWER_BYTES)
            if answer.read(1):
                answer.close()
        except (HTTPError, HTTPException, OSError):
            text = b""
            answer.close()
        finally:
            answer.release_conn()
        return Response(answer.status, dict(answer.headers.items()), text)

    def _may_lead_to(self, place: SplitResult) -> bool:
        here, there = self._origin.hostname or "", place.hostname or ""
        known = any(here.endswith(suffix) and there.endswith(suffix) for suffix in _AZURE)
        return place.scheme == self._origin.scheme and (there == here or known)

    def _move(self, place: SplitResult) -> None:
        self._connections.reset()
        self._origin = place
        self._connections = self._connect()

    def _connect(self) -> Connections:
        origin = self._origin
        proxy = proxy_for(origin.scheme, origin.hostname or "", self._proxy_url)
        return Connections(origin, self._tls, proxy=proxy)
