"""Ways to prove who sends: settings, and what adds the headers of each request.

Secrets are read from files, anew when these change. They are in headers only, never in a message.
"""

from __future__ import annotations

import base64

from pydantic import Field, model_validator

from retina_otel.delivery.auth.authorizer import Authorizer, Request
from retina_otel.delivery.auth.azure_identity import AzureAdSettings
from retina_otel.delivery.auth.signing_aws import SigV4Settings
from retina_otel.delivery.strict import StrictSettings
from retina_otel.delivery.tls.watched import SecretFile
from retina_otel.errors import ConfigError


class BearerSettings(StrictSettings):
    """`Authorization: Bearer` with a token from a file, as a mounted secret or a service account's
    projected token."""

    token_file: str = Field(min_length=1)
    """File with the token. It is read again when it changes and after a 401, which is then tried
    again, because a new token may be on its way."""

    def authorizer(self) -> Authorizer:
        """Raises ConfigError if the file can't be used."""
        return _Bearer(SecretFile(self.token_file, "auth.bearer.token_file"))


class BasicSettings(StrictSettings):
    """`Authorization: Basic` with a user name, and a password from a file."""

    username: str = Field(min_length=1, pattern=r"^[^:\x00-\x1f\x7f]+$")
    """User name, without a colon."""
    password_file: str = Field(min_length=1)
    """File with the password, read again when it changes and after a 401."""

    def authorizer(self) -> Authorizer:
        """Raises ConfigError if the file can't be used."""
        return _Basic(self.username, SecretFile(self.password_file, "auth.basic.password_file"))


class AuthSettings(StrictSettings):
    """How the agent proves who it is: one way at most. Without any, `headers` may hold a key that
    does not change."""

    bearer: BearerSettings | None = None
    """A token from a file."""
    basic: BasicSettings | None = None
    """A user name, and a password from a file."""
    sigv4: SigV4Settings | None = None
    """AWS Signature Version 4, as Amazon Managed Service for Prometheus wants it."""

    azure_ad: AzureAdSettings | None = None
    """A token of Microsoft Entra ID, as an Azure Monitor workspace wants it."""

    @model_validator(mode="after")
    def _one_way(self) -> AuthSettings:
        given = sorted(name for name in type(self).model_fields if getattr(self, name))
        if len(given) > 1:
            raise ValueError(f"there is more than one way: keep one of {', '.join(given)}")
        return self

    def authorizer(self) -> Authorizer | None:
        """What adds headers; None where nothing is to be proved. Raises ConfigError."""
        for name in type(self).model_fields:
            way = getattr(self, name)
            if way is not None:
                made: Authorizer = way.authorizer()
                return made
        return None


class _Bearer:
    def __init__(self, token: SecretFile) -> None:
        self._token = token

    def headers(self, request: Request) -> dict[str, str]:
        token = self._token.text()
        if not token.isascii():
            raise ConfigError(
                "the file of auth.bearer.token_file holds more than ASCII",
                "A token is of letters, digits and - . _ ~ + / =",
            )
        return {"Authorization": f"Bearer {token}"}

    def refused(self) -> None:
        self._token.read_again()


class _Basic:
    def __init__(self, username: str, password: SecretFile) -> None:
        self._username = username
        self._password = password

    def headers(self, request: Request) -> dict[str, str]:
        pair = f"{self._username}:{self._password.text()}".encode()
        return {"Authorization": f"Basic {base64.b64encode(pair).decode()}"}

    def refused(self) -> None:
        self._password.read_again()
