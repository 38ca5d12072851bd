"""AWS Signature Version 4: settings, and what signs each request. The signing itself is AWS' own.

Credentials come from where AWS' tools look for them; none is asked for before the first request.
awscrt is an extra, imported when something is to be signed.
"""

from __future__ import annotations

import io
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field

from retina_otel.delivery.auth.authorizer import Request
from retina_otel.delivery.strict import StrictSettings
from retina_otel.errors import ConfigError, RetinaError

_SIGNED = frozenset({"content-type", "content-encoding", "x-prometheus-remote-write-version"})
"""Beside the host and what begins with `x-amz-`. Others may be changed on the way."""
_LONGEST_S = 10.0
"""For credentials that are asked for over the network."""


class SigV4Settings(StrictSettings):
    """AWS Signature Version 4, as Amazon Managed Service for Prometheus wants it."""

    region: str = Field(min_length=1)
    """Region of the service, as `eu-central-1`."""

    service: str = Field(default="aps", min_length=1)
    """Name of the service that is signed for."""

    profile: str = ""
    """Profile of AWS' configuration files, which may assume a role. Empty: the first that there is
    of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, the default profile, the pod's own role (web
    identity), and the node's."""

    def authorizer(self) -> _Signer:
        """Raises ConfigError if awscrt is not installed."""
        return _Signer(self)


class _Signer:
    """An Authorizer."""

    def __init__(self, settings: SigV4Settings) -> None:
        try:
            from awscrt import auth, http
        except ImportError as error:
            raise ConfigError(
                f"auth.sigv4 needs awscrt: {error}", "Install retina-otel[aws]"
            ) from error
        self._auth, self._http = auth, http
        self._settings = settings
        self._provider: Any = None

    def headers(self, request: Request) -> dict[str, str]:
        parts = urlsplit(request.url)
        host = parts.hostname or ""
        host = f"[{host}]" if ":" in host else host
        if parts.port not in (None, {"http": 80, "https": 443}.get(parts.scheme)):
            host = f"{host}:{parts.port}"
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        chosen = [(k, v) for k, v in request.headers.items() if k.lower() in _SIGNED]
        unsigned = self._http.HttpRequest(
            request.method,
            path,
            self._http.HttpHeaders([("Host", host), *chosen]),
            io.BytesIO(request.body),
        )
        given = {name.lower() for name, _ in unsigned.headers}
        try:
            if self._provider is None:
                self._provider = self._new_provider()
            config = self._auth.AwsSigningConfig(
                algorithm=self._auth.AwsSigningAlgorithm.V4,
                credentials_provider=self._provider,
                region=self._settings.region,
                service=self._settings.service,
                signed_body_header_type=(self._auth.AwsSignedBodyHeaderType.X_AMZ_CONTENT_SHA_256),
            )
            signed = self._auth.aws_sign_request(unsigned, config).result(_LONGEST_S)
        except Exception as error:  # awscrt raises Exception itself for most faults
            self._provider = None
            late = isinstance(error, TimeoutError)
            said = f"none came within {_LONGEST_S:g} s" if late else error
            raise RetinaError(
                f"auth.sigv4 has no credentials: {said}",
                "Give the pod a role, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
                "auth.sigv4.profile",
            ) from error
        return {name: value for name, value in signed.headers if name.lower() not in given}

    def refused(self) -> None:
        self._provider = None

    def _new_provider(self) -> Any:
        provider = self._auth.AwsCredentialsProvider
        if self._settings.profile:
            return provider.new_profile(profile_name=self._settings.profile)
        return provider.new_default_chain()
