"""`retina-otel identity-service`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(
    name="identity-service",
    context_settings={"auto_envvar_prefix": "RETINA_OTEL_IDENTITY_SERVICE"},
)
@click.option(
    "--listen",
    default="127.0.0.1:9443",
    show_default=True,
    metavar="ADDRESS",
    help="Where agents come: host:port, or unix:PATH. TLS is a must unless it is on this machine.",
)
@click.option(
    "--health",
    default="127.0.0.1:13135",
    show_default=True,
    metavar="ADDRESS",
    help="Where /livez, /readyz and /metrics are; empty: nowhere.",
)
@click.option("--tls-cert", metavar="FILE", help="PEM certificate; read again when it changes.")
@click.option("--tls-key", metavar="FILE", help="Its key.")
@click.option(
    "--client-ca",
    default="",
    metavar="FILE",
    help="CA of client certificates (mTLS); those who may read are named by --allow-name.",
)
@click.option(
    "--allow-name",
    "names",
    multiple=True,
    metavar="NAME",
    help="A name (SAN or CN) of a client certificate that may read. May be given often.",
)
@click.option(
    "--allow-service-account",
    "accounts",
    multiple=True,
    metavar="NAMESPACE/NAME",
    help="The agents' ServiceAccount: whoever shows its token may read. May be given often.",
)
@click.option(
    "--audience",
    default="retina-otel-identity",
    show_default=True,
    help="For whom the tokens must be: one for anybody else is refused.",
)
@click.option(
    "--label",
    "labels",
    multiple=True,
    metavar="KEY",
    help="A label of pods that agents ask for. May be given often.",
)
@click.option(
    "--annotation",
    "annotations",
    multiple=True,
    metavar="KEY",
    help="An annotation of pods that agents ask for. May be given often.",
)
@click.option(
    "--lease",
    default="",
    metavar="NAMESPACE/NAME",
    help="Lease by which replicas settle who writes the status of MetricsConfigurations. Without "
    "it nothing is written.",
)
@click.option(
    "--identity",
    default="",
    envvar=["RETINA_OTEL_IDENTITY_SERVICE_IDENTITY", "K8S_POD_NAME"],
    metavar="NAME",
    help="Of this replica, in the lease. Default: K8S_POD_NAME, else host and process.",
)
@click.option(
    "--kubeconfig",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Default: KUBECONFIG, ~/.kube/config, else the pod's own ServiceAccount.",
)
@click.option("--context", metavar="NAME", help="Its context. Default: the current one.")
@click.option(
    "--max-streams",
    type=click.IntRange(1, 100_000),
    default=2_000,
    show_default=True,
    help="How many agents may read at a time.",
)
@click.option(
    "--batch",
    default="500ms",
    show_default=True,
    metavar="DURATION",
    help="How long changes are gathered before they are sent.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warn", "error"]),
    default="info",
    show_default=True,
)
def command(
    *,
    listen: str,
    health: str,
    tls_cert: str | None,
    tls_key: str | None,
    client_ca: str,
    names: tuple[str, ...],
    accounts: tuple[str, ...],
    audience: str,
    labels: tuple[str, ...],
    annotations: tuple[str, ...],
    lease: str,
    identity: str,
    kubeconfig: Path | None,
    context: str | None,
    max_streams: int,
    batch: str,
    log_level: str,
) -> None:
    """Watch the Kubernetes API once, for all agents, until SIGTERM or SIGINT.

    Agents that are let in get a compact snapshot of who is who, then what changes; one that was
    away gets what it missed. Each option can come from the environment too, as
    RETINA_OTEL_IDENTITY_SERVICE_LISTEN.

    \b
    Examples:
      retina-otel identity-service --listen 0.0.0.0:9443 --tls-cert tls.crt --tls-key tls.key \\
          --allow-service-account retina-otel/retina-otel --lease retina-otel/retina-otel-identity
      retina-otel identity-service --listen 0.0.0.0:9443 --tls-cert tls.crt --tls-key tls.key \\
          --client-ca ca.crt --allow-name agent.retina-otel
      retina-otel identity-service --kubeconfig ~/.kube/config \\
          --allow-service-account retina-otel/retina-otel
    """
    import logging
    import signal
    import threading

    from retina_otel.agent.logs import set_up
    from retina_otel.config.settings import LogLevel, LogsSettings
    from retina_otel.errors import ConfigError
    from retina_otel.identity_service.server import Limits
    from retina_otel.identity_service.service import Options, Service
    from retina_otel.identity_service.tls import ServerFiles
    from retina_otel.kubernetes.api.access import Access
    from retina_otel.model.durations import parse_duration

    set_up(LogsSettings(level=LogLevel(log_level)))
    if bool(tls_cert) != bool(tls_key) or (client_ca and not tls_cert):
        raise ConfigError("TLS needs a certificate and its key", "Give --tls-cert and --tls-key")
    try:
        batch_s = parse_duration(batch)
        if not 0.01 <= batch_s <= 60:
            raise ValueError("it must be between 10ms and 1m")
    except ValueError as error:
        raise ConfigError(str(error), path="batch") from error
    options = Options(
        listen=listen,
        health=health,
        tls=ServerFiles(tls_cert, tls_key, client_ca) if tls_cert and tls_key else None,
        service_accounts=accounts,
        certificate_names=names,
        audience=audience,
        labels=labels,
        annotations=annotations,
        lease=lease,
        identity=identity,
        limits=Limits(streams=max_streams, batch_s=batch_s),
    )
    options.check()
    logger = logging.getLogger("retina_otel.identity_service")
    service = Service(options, Access.from_settings(kubeconfig, context), logger)
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: ended.set())
    service.start()
    try:
        ended.wait()
        logger.info("stopping")
    finally:
        service.stop()
