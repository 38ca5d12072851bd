"""Azure Monitor's own exporters, made so that they keep nothing on disk and call nobody by
themselves: no statistics of the SDK, no remote configuration, no retries, no log of requests.
"""

from __future__ import annotations

import json
import os
from types import TracebackType
from typing import Any, Self, TypeVar

from azure.core.pipeline.policies import RetryPolicy, SansIOHTTPPolicy
from azure.core.pipeline.transport import HttpResponse, HttpTransport
from azure.core.utils import case_insensitive_dict
from azure.monitor.opentelemetry.exporter import AzureMonitorLogExporter, AzureMonitorMetricExporter

from retina_otel import __version__
from retina_otel.delivery.auth.azure_identity import silence
from retina_otel.delivery.http.responses import Response
from retina_otel.errors import ConfigError
from retina_otel.exporters.azure_monitor.connection_string import ConnectionString

_CALLS_NOBODY = {
    "APPLICATIONINSIGHTS_STATSBEAT_DISABLED_ALL": "true",
    "APPLICATIONINSIGHTS_SDKSTATS_DISABLED": "true",
    "APPLICATIONINSIGHTS_CONTROLPLANE_DISABLED": "true",
}

_E = TypeVar("_E", AzureMonitorMetricExporter, AzureMonitorLogExporter)


class Transport(HttpTransport[Any, Any]):
    """What their pipeline ends in. There is nothing to open or close in it."""

    def open(self) -> None: ...

    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None: ...


class Answer(HttpResponse):
    """A response as their pipeline reads it."""

    def __init__(self, request: Any, response: Response) -> None:
        super().__init__(request, None)
        self.status_code = response.status
        self.headers = case_insensitive_dict(response.headers)
        self.reason = ""
        self.content_type = self.headers.get("content-type")
        self._body = response.body

    def body(self) -> bytes:
        return self._body

    def json(self) -> Any:
        return json.loads(self._body)


def quiet(
    kind: type[_E], target: ConnectionString, transport: Transport, credential: Any = None
) -> _E:
    """One of their exporters. With a credential its client adds tokens to what it sends."""
    os.environ.update(_CALLS_NOBODY)
    silence()
    try:
        return kind(
            connection_string=target.text(),
            credential=credential,
            transport=transport,
            disable_offline_storage=True,
            max_envelopes_per_second=0,
            retry_policy=RetryPolicy.no_retries(),
            http_logging_policy=SansIOHTTPPolicy(),
            user_agent=f"retina-otel/{__version__}",
        )
    except ValueError as error:
        # Theirs never quotes the string; what it finds wrong is then in the environment's.
        raise ConfigError(
            f"Azure Monitor's exporter refuses the connection string: {error}",
            "Unset APPLICATIONINSIGHTS_CONNECTION_STRING, or correct it too",
        ) from None
