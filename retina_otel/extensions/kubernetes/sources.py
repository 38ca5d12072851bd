"""Sources: where changes of objects come from, the API server or the identity service.

Each kind's first change from a source is the whole list, so one may take over from another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from retina_otel.extensions.kubernetes.plan import Watched
from retina_otel.extensions.kubernetes.settings import ServiceSettings
from retina_otel.kubernetes.access import Access
from retina_otel.kubernetes.watch import Change, Watcher, WatchState

OnChange = Callable[[Change], None]
OnState = Callable[[str, WatchState], None]
"""Called with what it is about: the kind's plural, or "identity service"."""

SERVICE = "identity service"


class Source(Protocol):
    def start(self) -> None: ...

    def stop(self) -> None:
        """No callback comes after it has returned."""


class Watches:
    """A watch of the API server for each kind."""

    def __init__(
        self, access: Access, watched: Sequence[Watched], on_change: OnChange, on_state: OnState
    ) -> None:
        self._watchers = [
            Watcher(
                access,
                one.kind,
                on_change=on_change,
                on_state=partial(on_state, one.kind.value),
                selector=one.selector,
                wanted=one.wanted,
                remember=False,  # the inventory does
            )
            for one in watched
        ]

    def start(self) -> None:
        for watcher in self._watchers:
            watcher.start()

    def stop(self) -> None:
        for watcher in self._watchers:
            watcher.stop()


class Service:
    """The identity service's stream and, while it is away for long, watches in its place."""

    def __init__(
        self,
        settings: ServiceSettings,
        watched: Sequence[Watched],
        on_change: OnChange,
        on_state: OnState,
        *,
        node: str,
        local: bool,
        in_its_place: Callable[[], Source],
    ) -> None:
        """Raises ConfigError."""
        # gRPC takes 9 MB, of which most agents have no use.
        from retina_otel.identity_service.client import StreamSettings
        from retina_otel.identity_service.fallback import FallBack
        from retina_otel.identity_service.protocol import Keys

        self._source = FallBack(
            StreamSettings(
                endpoint=settings.endpoint,
                kinds={
                    one.kind: Keys(
                        tuple(sorted(one.wanted.label_keys)),
                        tuple(sorted(one.wanted.annotation_keys)),
                    )
                    for one in watched
                },
                node=node,
                local=local,
                token_file=settings.token_file,
                ca_file=settings.ca_file,
                cert_file=settings.cert_file,
                key_file=settings.key_file,
                server_name=settings.server_name,
                insecure=settings.insecure,
            ),
            on_change,
            partial(on_state, SERVICE),
            in_its_place=in_its_place,
            after_s=settings.fall_back_after,
        )

    def start(self) -> None:
        self._source.start()

    def stop(self) -> None:
        self._source.stop()
