"""The identity service as a whole: watches, store, gRPC server, leader, health.

Every replica watches and serves, so that agents have somewhere to go when one ends; each costs the
API server one watch of each kind. Only the leader writes anything to the cluster.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from ipaddress import ip_address

from retina_otel.errors import ConfigError, cannot_listen
from retina_otel.identity_service.admission import Admission, Credentials, Identify
from retina_otel.identity_service.authentication import (
    AUDIENCE,
    Peer,
    TokenReviewer,
    check_certificate,
    service_account,
)
from retina_otel.identity_service.counters import Counters
from retina_otel.identity_service.health import HealthServer
from retina_otel.identity_service.leader import Leader
from retina_otel.identity_service.server import IdentityServer, Limits
from retina_otel.identity_service.sources import Sources, keys
from retina_otel.identity_service.statuses import write_statuses
from retina_otel.identity_service.store import Store
from retina_otel.identity_service.tls import ServerFiles, server_credentials
from retina_otel.kubernetes.api.access import Access
from retina_otel.kubernetes.api.watch import Timing
from retina_otel.serving.address import parse_address

_LATE_S = 30.0


@dataclass(frozen=True, slots=True)
class Options:
    """How the service runs."""

    listen: str = "127.0.0.1:9443"
    health: str = "127.0.0.1:13135"
    """Empty: none."""
    tls: ServerFiles | None = None
    service_accounts: Collection[str] = ()
    """"namespace/name" of the agents."""
    certificate_names: Collection[str] = ()
    audience: str = AUDIENCE
    labels: Collection[str] = ()
    """Of pods."""
    annotations: Collection[str] = ()
    lease: str = ""
    """"namespace/name"; empty: nothing is ever written to the cluster."""
    identity: str = ""
    """Of this replica, in the lease."""
    limits: Limits = field(default_factory=Limits)
    timing: Timing | None = None

    def check(self) -> None:
        """Raises ConfigError for what must not be."""
        certificates = self.tls is not None and self.tls.client_ca_file
        for path, address in (("listen", self.listen), ("health", self.health)):
            try:
                if address and not address.startswith("unix:"):
                    parse_address(address)
            except ValueError as error:
                raise ConfigError(f"{address!r} given, {error}", path=path) from error
        if self.tls is None and not _is_local(self.listen):
            raise ConfigError(
                "without TLS it listens on loopback only",
                "Give --tls-cert and --tls-key, or listen at 127.0.0.1",
                path="listen",
            )
        if bool(certificates) != bool(self.certificate_names):
            raise ConfigError(
                "client certificates need a CA and the names that may read",
                "Give --client-ca and --allow-name together",
            )
        if not certificates and not self.service_accounts:
            raise ConfigError(
                "nobody could be identified",
                "Name the agents' account by --allow-service-account namespace/name",
            )
        for one in self.service_accounts:
            try:
                service_account(one)
            except ValueError as error:
                raise ConfigError(str(error), path="allow-service-account") from error
        if self.lease and self.lease.count("/") != 1:
            raise ConfigError(f"{self.lease!r} is not namespace/name", path="lease")


def _is_local(listen: str) -> bool:
    if listen.startswith("unix:"):
        return True
    host, _ = parse_address(listen)
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Service:
    """`start` and `stop` once each."""

    def __init__(self, options: Options, access: Access, logger: logging.Logger) -> None:
        """Raises ConfigError."""
        options.check()
        self._options = options
        self._logger = logger
        self.counters = Counters()
        self.store = Store()
        kept = keys(options.labels, options.annotations)
        self.sources = Sources(
            access,
            self.store,
            kept=kept,
            on_state=self._on_state,
            logger=logger,
            timing=options.timing,
        )
        self.server = IdentityServer(
            store=self.store,
            kinds={kind.value: one for kind, one in kept.items()},
            admission=Admission(self._identify(access), self.counters, logger),
            heartbeat=self.sources.heartbeat,
            unsynced=self.sources.unsynced,
            counters=self.counters,
            logger=logger,
            limits=options.limits,
        )
        self.leader: Leader | None = None
        if options.lease:
            namespace, _, name = options.lease.partition("/")
            self.leader = Leader(
                access,
                namespace=namespace,
                name=name,
                identity=options.identity or f"{os.uname().nodename}-{os.getpid()}",
                work=lambda: self._write_statuses(access),
                logger=logger,
            )
        self.health: HealthServer | None = None

    def start(self) -> None:
        """Raises ConfigError if an address or a certificate can't be used."""
        options = self._options
        credentials = server_credentials(options.tls, self._logger) if options.tls else None
        if options.health:
            try:
                self.health = HealthServer(
                    options.health,
                    live=self._live,
                    ready=self._ready,
                    metrics=self._metrics,
                    logger=self._logger,
                )
            except OSError as error:
                raise cannot_listen(options.health, "health", error) from error
        self.server.start(options.listen, credentials)
        if self.health is not None:
            self.health.start("identity-health")
        self.sources.start()
        if self.leader is not None:
            self.leader.start()
        health = f"; health at port {self.health.port}" if self.health else ""
        self._logger.info("listening at %s, port %d%s", options.listen, self.server.port, health)

    def stop(self) -> None:
        """Agents are told to go elsewhere, and the lease is given back."""
        self.server.stop()
        if self.leader is not None:
            self.leader.stop()
        self.sources.stop()
        if self.health is not None:
            self.health.stop()

    def _identify(self, access: Access) -> Identify:
        options = self._options
        names = frozenset(options.certificate_names)
        accounts = [service_account(one) for one in options.service_accounts]
        reviewer = TokenReviewer(
            access, accounts, audience=options.audience, counters=self.counters
        )

        def identify(credentials: Credentials, anew: bool) -> Peer:
            peer = check_certificate(credentials.certificate_names, names) if names else None
            if accounts or peer is None:
                return reviewer.identify(credentials.token, anew=anew)
            return peer

        return identify

    def _write_statuses(self, access: Access) -> None:
        if written := write_statuses(access):
            self._logger.info("wrote the status of %d MetricsConfigurations", written)

    def _on_state(self) -> None:
        self.server.wake()

    def _live(self) -> str:
        late_s = time.monotonic() - self.server.ticked
        return "" if late_s < _LATE_S else f"the server's loop is stuck for {late_s:.0f} s"

    def _ready(self) -> str:
        unsynced = sorted(self.sources.unsynced())
        if not unsynced:
            return ""
        return f"no list yet of {', '.join(unsynced)}; {self.sources.heartbeat().reason}"

    def _metrics(self) -> bytes:
        leading = self.leader is not None and self.leader.leading
        return self.counters.render(
            {
                "streams": lambda: {"": self.server.streams},
                "objects": self.store.counts,
                "watch_synced": self.sources.synced,
                "leader": lambda: {"": float(leading)},
                "cpu_seconds_total": lambda: {"": time.process_time()},
                "resident_memory_bytes": lambda: {"": _resident()},
            }
        )


def _resident() -> int:
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
