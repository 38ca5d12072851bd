"""Whom `observe` and `pods` ask: the agent of this node, or every agent of a cluster.

A cluster's agents are asked through its API server, by running the same command in each of their
pods: who may do that is the cluster's own say (`pods/exec`), and no agent listens for it.
"""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from retina_otel.errors import RetinaError

if TYPE_CHECKING:
    from retina_otel.observe.answers import Request

F = TypeVar("F", bound=Callable[..., Any])
Record = dict[str, Any]

AGENTS = "app.kubernetes.io/name=retina-otel,app.kubernetes.io/component=agent"
"""Label selector of the agents' pods, as the Helm chart has it."""

_MOST_WAITING = 10_000
"""Lines read from agents that nobody has taken yet: beyond it, agents wait."""
_TIMEOUT_S = 10.0


def agent_options(function: F) -> F:
    """Options that say whom to ask, as parameters socket, kubeconfig, context, agents, nodes."""
    options = (
        click.option(
            "--socket", type=click.Path(path_type=Path), help="Socket of this node's agent."
        ),
        click.option(
            "--kubeconfig",
            type=click.Path(path_type=Path),
            help="Ask every agent of a cluster, through its API server.",
        ),
        click.option(
            "--context", metavar="NAME", help="Context of the kubeconfig; asks the cluster too."
        ),
        click.option(
            "--agents",
            default="retina-otel",
            show_default=True,
            metavar="NAMESPACE",
            help="Namespace in which the cluster's agents run.",
        ),
        click.option(
            "--node", "nodes", multiple=True, metavar="NAME", help="Only agents on these nodes."
        ),
    )
    for option in reversed(options):
        function = option(function)
    return function


def ask_agents(
    options: dict[str, Any], request: Request, arguments: Sequence[str]
) -> Iterator[Record]:
    """Lines of the answers. `arguments` are those of the same command on a node."""
    if not options["kubeconfig"] and not options["context"]:
        from retina_otel.observe.socket import DEFAULT_SOCKET, ask

        return ask(options["socket"] or DEFAULT_SOCKET, request.to_json())
    core = _core_api(options["kubeconfig"], options["context"])
    pods = _pods(core, options["agents"], set(options["nodes"]))
    command = ["retina-otel", *arguments]
    if options["socket"]:
        command += ["--socket", str(options["socket"])]
    return _merged(core, options["agents"], pods, command)


def _core_api(kubeconfig: Path | None, context: str | None) -> Any:
    from kubernetes import client, config

    try:
        api = config.new_client_from_config(
            config_file=str(kubeconfig) if kubeconfig else None, context=context
        )
    except (config.ConfigException, OSError, ValueError) as error:
        raise RetinaError(f"the kubeconfig can't be used: {_line(error)}") from error
    return client.CoreV1Api(api)


def _pods(core: Any, namespace: str, nodes: set[str]) -> list[tuple[str, str]]:
    """(pod, node) of each agent that runs."""
    from kubernetes.client import ApiException
    from urllib3.exceptions import HTTPError

    try:
        found = core.list_namespaced_pod(
            namespace, label_selector=AGENTS, _request_timeout=_TIMEOUT_S
        ).items
    except (ApiException, HTTPError) as error:
        raise RetinaError(f"no list of agents: {_line(error)}", "It needs `list pods`.") from error
    running = [
        (pod.metadata.name, pod.spec.node_name)
        for pod in found
        if pod.status.phase == "Running" and not pod.metadata.deletion_timestamp
    ]
    chosen = [(pod, node) for pod, node in running if not nodes or node in nodes]
    if not chosen:
        where = f" on {', '.join(sorted(nodes))}" if nodes else ""
        raise RetinaError(
            f"no agent runs in the namespace {namespace}{where}",
            "`--agents` names the namespace that the chart was installed in.",
        )
    return chosen


def _merged(
    core: Any, namespace: str, pods: Sequence[tuple[str, str]], command: list[str]
) -> Iterator[Record]:
    """Lines of all agents as they come; an agent that fails is told, and the others go on."""
    lines: queue.Queue[Record | None] = queue.Queue(_MOST_WAITING)

    def read(pod: str, node: str) -> None:
        try:
            for record in _lines(core, namespace, pod, command):
                lines.put(record)
        except Exception as error:
            lines.put({"failed": node, "why": _line(error)})
        finally:
            lines.put(None)

    for pod, node in pods:
        threading.Thread(target=read, args=(pod, node), daemon=True).start()
    failures: list[str] = []
    running = len(pods)
    while running:
        record = lines.get()
        if record is None:
            running -= 1
        elif "failed" in record:
            failures.append(f"{record['failed']}: {record['why']}")
            if len(failures) == len(pods):
                raise RetinaError(f"no agent answers: {'; '.join(failures)}")
            click.echo(f"{click.style('warning:', fg='yellow')} {failures[-1]}", err=True)
        else:
            yield record


def _lines(core: Any, namespace: str, pod: str, command: list[str]) -> Iterator[Record]:
    from kubernetes.stream import stream
    from kubernetes.stream.ws_client import ERROR_CHANNEL

    connection = stream(
        core.connect_get_namespaced_pod_exec,
        pod,
        namespace,
        command=command,
        container="agent",
        stdin=False,
        stdout=True,
        stderr=True,
        tty=False,
        _preload_content=False,
    )
    rest, complaint = "", ""
    try:
        while connection.is_open():
            connection.update(timeout=1)
            complaint += connection.read_stderr() if connection.peek_stderr() else ""
            rest += connection.read_stdout() if connection.peek_stdout() else ""
            *whole, rest = rest.split("\n")
            yield from map(json.loads, whole)
        status = json.loads(connection.read_channel(ERROR_CHANNEL) or "{}")
        if status.get("status") != "Success":
            raise RetinaError(complaint.strip() or str(status.get("message", "it ended early")))
    finally:
        connection.close()


def _line(error: Exception) -> str:
    """What an error of the client library says, in one line."""
    status = getattr(error, "status", None)
    reason = getattr(error, "reason", None)
    text = f"{status} {reason}" if status else str(reason or error)
    return " ".join(text.split())[:200]
