"""Who is let in: asks who a peer is, refuses with the right status, counts and logs refusals."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

import grpc
import grpc.aio

from retina_otel.errors import RetinaError
from retina_otel.identity_service.authentication import Peer, Refusal, RefusedError
from retina_otel.identity_service.counters import Counters

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

_CODES = {
    Refusal.NO_TOKEN: grpc.StatusCode.UNAUTHENTICATED,
    Refusal.INVALID_TOKEN: grpc.StatusCode.UNAUTHENTICATED,
    Refusal.FOREIGN_ACCOUNT: grpc.StatusCode.PERMISSION_DENIED,
    Refusal.FOREIGN_CERTIFICATE: grpc.StatusCode.PERMISSION_DENIED,
    Refusal.UNCHECKED: grpc.StatusCode.UNAVAILABLE,
}
_REVIEWS_AT_ONCE = 4
_MOST_LOGGED = 1_000
"""Peers whose refusal is remembered, so that each is logged once."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a peer shows."""

    token: str
    certificate_names: tuple[str, ...]


Identify = Callable[[Credentials, bool], Peer]
"""Who it is; True asks anew whoever was asked lately. Blocks. Raises RefusedError."""


class Admission:
    """For the server's event loop; asks in threads of its own."""

    def __init__(self, identify: Identify, counters: Counters, logger: logging.Logger) -> None:
        self._identify = identify
        self._counters = counters
        self._logger = logger
        self._reviews = ThreadPoolExecutor(_REVIEWS_AT_ONCE, "identity-reviews")
        self._logged: set[tuple[str, Refusal]] = set()

    def close(self) -> None:
        self._reviews.shutdown(wait=False, cancel_futures=True)

    async def admit(self, context: Context) -> Peer:
        """Ends the call for a peer that gets nothing."""
        try:
            return await self._ask(context, anew=False)
        except RefusedError as error:
            return await self._refuse_peer(context, error)

    async def check_again(self, context: Context) -> None:
        """For one that was let in: ends the call if it would be refused now. That it can't be
        checked now is no reason: its token ends by itself."""
        try:
            await self._ask(context, anew=True)
        except RefusedError as error:
            if error.refusal is not Refusal.UNCHECKED:
                await self._refuse_peer(context, error)

    async def refuse(
        self, context: Context, code: grpc.StatusCode, label: str, text: str
    ) -> NoReturn:
        """Ends the call of a peer that is known, but asks for what there is not."""
        self._counters.add("refusals_total", label=label)
        await context.abort(code, text)
        raise RetinaError(text)

    async def _ask(self, context: Context, *, anew: bool) -> Peer:
        loop = asyncio.get_running_loop()
        credentials = _credentials(context)
        return await loop.run_in_executor(self._reviews, self._identify, credentials, anew)

    async def _refuse_peer(self, context: Context, error: RefusedError) -> NoReturn:
        peer = context.peer()
        host = peer.rpartition(":")[0] or peer
        if (host, error.refusal) not in self._logged:
            if len(self._logged) >= _MOST_LOGGED:
                self._logged.clear()
            self._logged.add((host, error.refusal))
            self._logger.warning("%s gets nothing: %s", host, error)
        await self.refuse(context, _CODES[error.refusal], error.refusal.value, str(error))


def _credentials(context: Context) -> Credentials:
    token = ""
    for key, value in context.invocation_metadata() or ():
        if key == "authorization" and isinstance(value, str):
            scheme, _, rest = value.partition(" ")
            token = rest.strip() if scheme.lower() == "bearer" else ""
    names: list[str] = []
    presented = context.auth_context()
    for key in ("x509_subject_alternative_name", "x509_common_name"):
        names.extend(one.decode(errors="replace") for one in presented.get(key, ()))
    return Credentials(token, tuple(names))
