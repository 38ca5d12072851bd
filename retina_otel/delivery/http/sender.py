"""An HTTP sender that keeps one connection and says in four words what became of each request.

Nothing that a backend or network does raises here: it becomes an Outcome with a short reason for
counting and a message for a person. Headers and queries, which may hold secrets, are never shown.
"""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from http.client import HTTPException
from urllib.parse import unquote, urlsplit

import urllib3
from urllib3.exceptions import HTTPError, InsecureRequestWarning

from retina_otel.delivery.auth.authorizer import Authorizer, Request
from retina_otel.delivery.compression import Compression, Compressor
from retina_otel.delivery.http.connections import Connections, explain
from retina_otel.delivery.http.header_names import is_header_name, shown_name
from retina_otel.delivery.http.proxies import proxy_for
from retina_otel.delivery.http.responses import MAX_RESPONSE_BYTES, Judge, Response, judge
from retina_otel.delivery.outcome import Clock, Outcome, Result
from retina_otel.delivery.packed import Packed
from retina_otel.delivery.tls.contexts import TlsOptions
from retina_otel.errors import ConfigError, RetinaError


@dataclass(frozen=True, slots=True)
class HttpTarget:
    """Where requests go, and how. `headers`, the URL's query and the proxy are not in its repr."""

    url: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    compression: Compression = Compression.GZIP
    tls: TlsOptions = field(default_factory=TlsOptions)
    content_type: str = "application/x-protobuf"
    proxy_url: str = field(default="", repr=False)
    """Empty: the one that the environment names; "none": none."""

    def __post_init__(self) -> None:
        if fault := fault_of_url(self.url):
            # Of what is no URL nobody knows which part is the password.
            shown = "" if "@" in self.url else f" {self.shown!r}"
            raise ConfigError(
                f"the endpoint{shown} {fault}",
                "Write an endpoint as http://host:4318 or https://host:4318",
            )
        for name, value in self.headers.items():
            if not (is_header_name(name) and fits_a_header(value)):
                raise ConfigError(
                    f"the header {shown_name(name)!r} can't be sent",
                    "Names are letters, digits, - and _, without a colon; values one line of text",
                )

    @property
    def shown(self) -> str:
        return shown_url(self.url)


def fits_a_header(text: str) -> bool:
    """Whether a text can stand in a header: in Latin-1, and without the ends of lines."""
    try:
        return not set(text.encode("latin-1")) & set(b"\r\n\0")
    except UnicodeEncodeError:
        return False


def shown_url(url: str) -> str:
    """A URL without what may be secret: user, password, query."""
    parts = urlsplit(url)
    address = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{address}{parts.path}" if parts.scheme else address + parts.path


def fault_of_url(url: str) -> str:
    """Why nothing can be sent to a URL, as "is no http or https URL"; "" if it can."""
    try:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            return "is no http or https URL"
        if parts.port == 0:
            return "has no valid host and port"
        urllib3.util.parse_url(url)  # refuses spaces in a host, which urlsplit does not
    except ValueError:
        return "has no valid host and port"
    return "has a space in it" if " " in url else ""


class HttpSender:
    """Posts requests to one target. Used by one thread; `abort` may be called from any."""

    def __init__(
        self,
        target: HttpTarget,
        *,
        clock: Clock,
        user_agent: str,
        authorizer: Authorizer | None = None,
        judge: Judge = judge,
    ) -> None:
        """Reads TLS files. Raises ConfigError if the target can't be used at all."""
        self.target = target
        self._clock = clock
        self._authorizer = authorizer
        self._judge_answer = judge
        self._compressor = Compressor(target.compression)
        parts = urlsplit(target.url)
        self._path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        defaults = {"User-Agent": user_agent, "Content-Type": target.content_type}
        if parts.username is not None:
            credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            basic = base64.b64encode(credentials.encode()).decode()
            defaults["Authorization"] = f"Basic {basic}"
        given = {name.lower() for name in target.headers}
        self._headers = {
            **{name: value for name, value in defaults.items() if name.lower() not in given},
            **target.headers,
        }
        if target.tls.insecure_skip_verify:
            urllib3.disable_warnings(InsecureRequestWarning)  # said once, by the exporter
        proxy = proxy_for(parts.scheme, parts.hostname or "", target.proxy_url)
        self._connections = Connections(parts, target.tls, proxy=proxy)
        self._aborted = threading.Event()

    @property
    def encoding(self) -> Compression:
        """The content encoding in use; with `auto` what the backend was found to read."""
        return self._compressor.encoding

    def pack(self, body: bytes, n_items: int) -> Packed:
        data, encoding = self._compressor.compress(body)
        return Packed(data, encoding, n_items, len(body))

    def send(self, packed: Packed, timeout_s: float) -> Outcome:
        """Posts a request: connecting, sending and the answer, all within `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        if self._compressor.outdated(packed.encoding):
            packed = self.pack(packed.body(), packed.n_items)
        try:
            with self._connections.within(timeout_s):
                response = self._post_readable(packed, deadline)
        except (HTTPError, HTTPException, OSError) as error:
            self._connections.reset()
            late = time.monotonic() >= deadline and not self._aborted.is_set()
            outcome = explain(TimeoutError() if late else error, self.target.shown)
            note = self.target.tls.expiry_note() if self.target.url.startswith("https:") else ""
            return replace(outcome, message=f"{outcome.message} ({note})") if note else outcome
        except RetinaError as error:
            return Outcome(Result.RETRY, "credentials", error.message, error.remedy)
        outcome = self._judge(response)
        if response.status in {401, 403} and self._authorizer is not None:
            # They can change: a token may just have expired, and AWS says 403 to old keys.
            self._authorizer.refused()
            if response.status == 401:
                return replace(outcome, result=Result.RETRY)
        return outcome

    def _post_readable(self, packed: Packed, deadline: float) -> Response:
        """Posts, and once more in another encoding if the backend can't read this one."""
        response = self._post(packed, deadline - time.monotonic())
        too_large = self._judge(response).result is Result.TOO_LARGE
        if not too_large and self._compressor.answered(response.status, packed.encoding):
            again = self.pack(packed.body(), packed.n_items)
            response = self._post(again, max(0.1, deadline - time.monotonic()))
            if response.status in {400, 415}:
                self._compressor.reconsider()
        return response

    def _judge(self, response: Response) -> Outcome:
        return self._judge_answer(response, self.target.shown, self._clock.wall_ns())

    def _post(self, packed: Packed, timeout_s: float) -> Response:
        headers = self._headers
        if packed.encoding:
            headers = {**headers, "Content-Encoding": packed.encoding}
        if self._authorizer is not None:
            request = Request("POST", self.target.url, headers, packed.data)
            headers = {**headers, **self._authorizer.headers(request)}
        if self._aborted.is_set():
            raise ConnectionAbortedError("the exporter is stopping")
        answer = self._connections.pool().urlopen(
            "POST",
            self._connections.path(self._path),
            body=packed.data,
            headers=headers,
            timeout=urllib3.Timeout(total=timeout_s),
            retries=False,
            redirect=False,
            assert_same_host=False,  # a plain proxy is asked for the whole URL
            preload_content=False,
            decode_content=True,
        )
        try:
            text = answer.read(MAX_RESPONSE_BYTES)
            if answer.read(1):
                answer.close()  # cheaper to open a new connection than to read what is not needed
        except (HTTPError, HTTPException, OSError):
            # The status is what counts; an explanation that was cut off is no reason to send twice.
            text = b""
            answer.close()
        finally:
            answer.release_conn()
        return Response(answer.status, dict(answer.headers.items()), text)

    def abort(self) -> None:
        """Ends a request that is under way; it comes back as a RETRY. Nothing is sent after."""
        self._aborted.set()
        self._connections.abort()

    def close(self) -> None:
        self._connections.reset()
