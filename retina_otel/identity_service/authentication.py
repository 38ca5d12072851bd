"""Who may read: agents, known by their ServiceAccount's token or by a client certificate.

A token is what kubelet projects for the service's own audience. What a token says of itself is
read first, so that foreign and expired ones cost the API server nothing; only its answer to a
TokenReview makes a token good. Positive answers are kept for a minute, by hash: a token itself is
kept nowhere and written nowhere. What can't be checked is refused.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import Enum
from typing import Any

from retina_otel.errors import RetinaError
from retina_otel.identity_service.counters import Counters
from retina_otel.kubernetes.api.access import Access, AccessError

AUDIENCE = "retina-otel-identity"

_REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"
_MOST_TOKEN_BYTES = 16 << 10
_MOST_KEPT = 10_000
_PREFIX = "system:serviceaccount:"


class Refusal(Enum):
    """Why nothing is sent; the value is the label of the counter."""

    NO_TOKEN = "no_token"
    INVALID_TOKEN = "invalid_token"
    """Malformed, expired, of another audience, or not of this cluster."""
    FOREIGN_ACCOUNT = "foreign_account"
    """A good token of somebody who is no agent."""
    FOREIGN_CERTIFICATE = "foreign_certificate"
    """A good client certificate with another name."""
    UNCHECKED = "unchecked"
    """The API server can't be asked now."""


class RefusedError(RetinaError):
    """A peer gets nothing."""

    def __init__(self, refusal: Refusal, message: str) -> None:
        super().__init__(message)
        self.refusal = refusal


@dataclass(frozen=True, slots=True)
class Peer:
    name: str
    until: float
    """Wall time in s at which its token expires."""


def service_account(text: str) -> str:
    """The user name of "namespace/name". Raises ValueError."""
    namespace, separator, name = text.partition("/")
    if not separator or not namespace or not name or "/" in name or ":" in text:
        raise ValueError(f"{text!r} is no ServiceAccount: write it as namespace/name")
    return f"{_PREFIX}{namespace}:{name}"


class TokenReviewer:
    """Asks the API server who holds a token. Any thread; calls block."""

    def __init__(
        self,
        access: Access,
        accounts: Collection[str],
        *,
        audience: str = AUDIENCE,
        counters: Counters | None = None,
        keep_s: float = 60.0,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`accounts` are user names, as `service_account` gives them."""
        self._access = access
        self._accounts = frozenset(accounts)
        self._audience = audience
        self._counters = counters or Counters()
        self._keep_s = keep_s
        self._now = now
        self._kept: dict[bytes, tuple[float, Peer]] = {}
        self._lock = threading.Lock()

    def identify(self, token: str, *, anew: bool = False) -> Peer:
        """Who it is; `anew` asks the API server even if it has answered lately. Raises
        RefusedError."""
        if not token:
            raise RefusedError(Refusal.NO_TOKEN, "no bearer token was sent")
        digest = hashlib.sha256(token.encode(errors="replace")).digest()
        if not anew:
            with self._lock:
                until, peer = self._kept.get(digest, (0.0, None))
            if peer is not None and self._now() < min(until, peer.until):
                return peer
        try:
            peer = self._review(token)
        except RefusedError as error:
            if error.refusal is not Refusal.UNCHECKED:
                with self._lock:
                    self._kept.pop(digest, None)
            raise
        with self._lock:
            if len(self._kept) >= _MOST_KEPT:
                self._kept.clear()
            self._kept[digest] = (self._now() + self._keep_s, peer)
        return peer

    def _review(self, token: str) -> Peer:
        expires = self._look_at(token)
        review = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [self._audience]},
        }
        self._counters.add("token_reviews_total")
        try:
            answer = self._access.post(_REVIEWS, review)
            status = answer["status"]
            authenticated = status.get("authenticated") is True
            audiences = status.get("audiences") or []
            user = (status.get("user") or {}).get("username", "")
        except AccessError as error:
            # Its text may quote what was sent.
            why = (
                f"the service may not {error.missing_right}"
                if error.missing_right
                else (
                    f"the API server answered {error.status}"
                    if error.status
                    else "it is not reached"
                )
            )
            raise RefusedError(Refusal.UNCHECKED, f"tokens can't be reviewed: {why}") from None
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise RefusedError(
                Refusal.UNCHECKED, "the API server's answer is no TokenReview"
            ) from error
        # An API server that knows no audiences leaves them out: then nothing was checked.
        if not authenticated or self._audience not in audiences:
            raise RefusedError(Refusal.INVALID_TOKEN, "the API server does not know the token")
        self._check_account(user)
        return Peer(user, expires)

    def _look_at(self, token: str) -> float:
        """Refuses by what the token says of itself; when it expires, in s of wall time."""
        claims = _claims(token)
        audience = claims.get("aud")
        audiences = audience if isinstance(audience, list) else [audience]
        if self._audience not in audiences:
            raise RefusedError(
                Refusal.INVALID_TOKEN, f"the token is not for the audience {self._audience}"
            )
        expires = claims.get("exp")
        if not isinstance(expires, int | float) or expires <= self._now():
            raise RefusedError(Refusal.INVALID_TOKEN, "the token has expired")
        self._check_account(claims.get("sub"))
        return float(expires)

    def _check_account(self, user: object) -> None:
        if user not in self._accounts:
            shown = user if isinstance(user, str) and user.startswith(_PREFIX) else "another user"
            raise RefusedError(Refusal.FOREIGN_ACCOUNT, f"{shown[:300]!r} is no agent's account")


def _claims(token: str) -> dict[str, Any]:
    parts = token.split(".")
    try:
        if len(token) > _MOST_TOKEN_BYTES or len(parts) != 3:
            raise ValueError
        body = parts[1] + "=" * (-len(parts[1]) % 4)
        claims = json.loads(base64.urlsafe_b64decode(body))
        if not isinstance(claims, dict):
            raise ValueError
    except (ValueError, RecursionError) as error:
        raise RefusedError(Refusal.INVALID_TOKEN, "the token is no JSON web token") from error
    return claims


def check_certificate(names: Collection[str], allowed: Collection[str]) -> Peer:
    """The peer of a certificate that the CA has signed, if one of its names may read. Raises
    RefusedError."""
    for name in names:
        if name in allowed:
            return Peer(name, float("inf"))
    shown = ", ".join(sorted(names))[:300]
    raise RefusedError(
        Refusal.FOREIGN_CERTIFICATE, f"no name of the client certificate may read: {shown}"
    )
