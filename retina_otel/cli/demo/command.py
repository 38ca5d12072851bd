"""`retina-otel demo`: a lab of network namespaces, the agent before it, and a view of what it sees.

At the end the senders stop first; when the agent has collected all they sent, its sums, the
senders' tallies and the interfaces' counters are compared for equality.
"""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

from retina_otel.cli.exit_codes import ExitCode
from retina_otel.errors import KernelError, RetinaError
from retina_otel.model.durations import parse_duration

if TYPE_CHECKING:
    from retina_otel.cli.demo.agent import DemoAgent
    from retina_otel.cli.demo.figures import Figures

_REFRESH_S = 1.0
_DRAIN_S = 20.0
_INTERRUPTED = 130


@click.command(name="demo")
@click.option("--duration", metavar="TIME", help="End after this time, as 20s or 2m.")
@click.option("--json", "as_json", is_flag=True, help="Print the final figures as a JSON object.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Keep the agent's files there: configuration, log, OTLP. Otherwise they go when it ends.",
)
@click.option(
    "--backends",
    is_flag=True,
    help="Also run a Collector and a Prometheus, and compare what came out there (in a clone, "
    "after `make collector backends`).",
)
def command(duration: str | None, as_json: bool, output: Path | None, backends: bool) -> int:
    """Show it working in a small lab on this machine.

    Builds a node with four pods out of network namespaces, lets them talk, runs the agent before
    them and shows flows, drops and the ledger; Ctrl-C ends it. Then it compares the agent's sums
    with what the senders and the interfaces counted, and fails if a number differs. Needs root;
    leaves nothing behind.

    \b
    Examples:
      sudo retina-otel demo
      sudo retina-otel demo --duration 20s
      sudo retina-otel demo --duration 20s --json --output demo-files
      sudo retina-otel demo --backends
    """
    length_s = _seconds(duration)
    if os.geteuid() != 0:
        raise KernelError(
            "demo",
            errno.EPERM,
            "Run it as root, or with sudo",
            detail="it needs root, for network namespaces and BPF",
        )
    if output is not None:
        try:
            output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RetinaError(
                f"--output {output}: {error.strerror}", "Choose a directory that can be written"
            ) from error
    with _stopped_by_signals() as stop:
        return _run(output and output.resolve(), length_s, stop, as_json=as_json, backends=backends)


def _run(
    output: Path | None,
    length_s: float | None,
    stop: threading.Event,
    *,
    as_json: bool,
    backends: bool,
) -> int:
    # Imported here so that `--help` and errors before it are quick.
    from retina_otel.cli.demo.agent import DemoAgent
    from retina_otel.cli.demo.backends import DemoBackends
    from retina_otel.cli.demo.checks import equalities, file_equalities, read_wires
    from retina_otel.cli.demo.screen import Screen
    from retina_otel.cli.demo.view import Moment
    from retina_otel.testing.demo_world import DemoWorld

    screen = Screen(as_json=as_json)
    began = time.monotonic()
    screen.say("building the lab: a node with pods shop/web, shop/api, shop/db, infra/dns")
    with ExitStack() as exits:
        world = exits.enter_context(DemoWorld())
        folder = output or world.lab.folder
        behind = None
        if backends:
            screen.say("starting Prometheus and the Collector")
            behind = exits.enter_context(DemoBackends(world.lab.node, folder))
            screen.say(f"Prometheus is at {behind.url}")
        screen.say("starting the agent")
        agent = exits.enter_context(
            DemoAgent(
                world.lab.node, world.identity(), folder, behind.exporters() if behind else {}
            )
        )
        ready = agent.wait_until_ready(stop)
        if stop.is_set():
            screen.say("stopped before it began")
            return _INTERRUPTED
        for receiver, state in ready.states.items():
            if state != "running":
                screen.say(f"receiver {receiver} is {state}: see {agent.log_path}")
        screen.say(f"ready after {time.monotonic() - began:.1f} s: {agent.url}")
        started = time.monotonic()
        world.start()
        last, last_at = ready, started
        with screen.live(agent.url, str(agent.otlp_path)):
            while not _over(stop, started, length_s):
                now = time.monotonic()
                seen = agent.figures()
                moment = Moment(
                    now - started, seen, read_wires(world), world.senders, last, now - last_at
                )
                screen.show(moment)
                last, last_at = seen, now
        screen.say("stopping the senders, then comparing")
        world.stop()
        lasted = time.monotonic() - started
        wires = read_wires(world)
        seen = _drained(agent)
        stated = equalities(world, seen, wires)
        code = agent.stop()
        stated += file_equalities(agent.otlp_path, seen)
        if behind is not None:
            stated += behind.equalities(seen)
        ok = code == 0 and all(equality.holds for equality in stated)
        screen.finish(Moment(lasted, seen, wires, world.senders), stated)
        for sender in world.senders:
            if sender.failure:
                ok = False
                screen.say(f"sender failed: {sender.talk.what}: {sender.failure}")
        if code:
            screen.say(f"the agent ended with {code}")
        screen.conclude(ok, stated)
    return ExitCode.OK if ok else ExitCode.FAILURE


def _drained(agent: DemoAgent) -> Figures:
    """The figures once every receiver was collected from twice since now and nothing changed."""
    deadline = time.monotonic() + _DRAIN_S
    first = before = agent.figures()
    while time.monotonic() < deadline:
        time.sleep(0.25)
        seen = agent.figures()
        collected = [
            number - first.collections.get(receiver, 0)
            for receiver, number in seen.collections.items()
        ]
        if collected and min(collected) >= 2:
            if seen.counted == before.counted:
                return seen
            before, first = seen, seen
    raise RetinaError(f"the agent's figures still changed {_DRAIN_S:.0f} s after the last packet")


def _over(stop: threading.Event, started: float, length_s: float | None) -> bool:
    """Waits for the next refresh; true when the demo is to end."""
    left = _REFRESH_S if length_s is None else started + length_s - time.monotonic()
    if left <= 0:
        return True
    return stop.wait(min(left, _REFRESH_S))


def _seconds(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise click.UsageError(f"--duration: {error}") from error
    if seconds <= 0:
        raise click.UsageError("--duration must be longer than nothing")
    return seconds


@contextmanager
def _stopped_by_signals() -> Iterator[threading.Event]:
    """An event that the first of SIGINT, SIGTERM, SIGHUP sets; a second one interrupts."""
    stop = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
