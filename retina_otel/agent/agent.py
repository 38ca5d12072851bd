"""The agent: one tick thread that collects, publishes, reloads and, when asked, ends in order.

End: a last collection, published snapshots, exporters send what is left (each in its own thread,
all within the grace), receivers detach, extensions end.
"""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Mapping

from retina_otel import __version__
from retina_otel.agent.clock import SystemClock
from retina_otel.agent.graph import Graph
from retina_otel.agent.logs import ROOT
from retina_otel.agent.pulse import Pulse
from retina_otel.agent.receiving import describe
from retina_otel.agent.resource import Resource, detect, disabled
from retina_otel.agent.status import StatusBoard
from retina_otel.agent.waking import Waking
from retina_otel.component import AgentStatus, ComponentKind, Context
from retina_otel.config.load import Configuration
from retina_otel.errors import ConfigError, RetinaError
from retina_otel.extensions.node_identity import NodeIdentity
from retina_otel.kernel.net.rtnetlink import InterfaceMonitor
from retina_otel.model.interfaces import Interface
from retina_otel.node.facts import NodeFacts

GRACE_S = 5.0
"""From the request to stop to the end of the agent."""
_EXPORTERS_S = 4.0
_LAST_COLLECTION_S = 1.0
_PATIENCE_S = 1.0
_NEW_OBJECTS = 10_000
"""So many, and the collector looks for cycles among them."""
SHORTEST_DEADLINE_S = 1.0
"""What receivers have for a collection, or the interval if that is longer."""
FIRST_TICKS_S = (0.25, 1.0)
"""After the start, so that the first export does not wait for a whole interval."""

_MONITOR = "interfaces of the node"

logger = logging.getLogger(f"{ROOT}.agent")


class NoReceiverError(RetinaError):
    """No receiver can run. `errors_by_receiver` say why."""

    def __init__(self, errors: Mapping[str, Exception]) -> None:
        told = {id_: describe(error) for id_, error in errors.items()}
        remedies = {getattr(error, "remedy", "") for error in errors.values()}
        common = remedies.pop() if len(remedies) == 1 else ""
        if common:
            told = {id_: text.removesuffix(f". {common}") for id_, text in told.items()}
        reasons = "; ".join(f"{id_}: {text}" for id_, text in told.items())
        super().__init__(f"no receiver can run: {reasons}", common)
        self.errors_by_receiver = errors


class Agent:
    """Runs a configuration until `stop()`. Any thread may call its methods."""

    def __init__(
        self,
        configuration: Configuration,
        environment: Mapping[str, str],
        *,
        clock: SystemClock | None = None,
    ) -> None:
        self._configuration = configuration
        self._environment = environment
        self._clock = clock or SystemClock()
        self._board = StatusBoard()
        self._graph: Graph | None = None
        self._monitor: InterfaceMonitor | None = None
        self._node: NodeIdentity | None = None
        self._facts = NodeFacts(self._clock.monotonic_ns, self._poll_interfaces)
        self._started_ns = self._clock.monotonic_ns()
        self._last_tick_ns = self._started_ns
        self._last_end_ns = 0
        self._waking = Waking()
        self._stop = threading.Event()
        self._stop_deadline_ns = 0
        self._up = threading.Event()
        self._reload_lock = threading.Lock()
        self._next: Configuration | None = None
        self._learned: Resource = {}
        self._learned_more = False
        self._learned_in_time = True
        self._error: Exception | None = None
        self._clean = True
        self._last_collected = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tick", daemon=True)

    def start(self) -> None:
        """Returns when everything has been started. Raises RetinaError if it can't run."""
        self._thread.start()
        self._up.wait()
        if self._error is not None:
            self._thread.join(GRACE_S)
            raise self._error

    def request_stop(self) -> None:
        """Begins the end; `join` waits for it."""
        if not self._stop.is_set():
            self._stop_deadline_ns = self._clock.monotonic_ns() + int(GRACE_S * 1e9)
            self._stop.set()
            self._waking.wake()

    def join(self, timeout_s: float | None = None) -> bool:
        """True when the agent has ended. Raises what ended it, if it was not asked to."""
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            return False
        if self._error is not None:
            raise self._error
        return True

    def stop(self) -> bool:
        """Ends it. False if something had to be left behind after the grace."""
        self.request_stop()
        # A receiver that does not return must not keep what is published from being sent.
        if not self._last_collected.wait(_LAST_COLLECTION_S + _PATIENCE_S) and self._graph:
            logger.error("%s does not return: what it has is lost", self._graph.collecting)
            deadline_ns = self._stop_deadline_ns - int((GRACE_S - _EXPORTERS_S) * 1e9)
            for thread in self._graph.begin_stop_of_exporters(deadline_ns):
                thread.join(max(0.0, (deadline_ns - self._clock.monotonic_ns()) / 1e9))
        left_s = (self._stop_deadline_ns - self._clock.monotonic_ns()) / 1e9
        return self.join(max(0.0, left_s)) and self._clean

    def reload(self, configuration: Configuration) -> None:
        """Changes into another configuration at the next tick."""
        with self._reload_lock:
            self._next = configuration
        self._waking.wake()

    def learn(self, attributes: Mapping[str, str | int | bool]) -> None:
        """Adds to the resource what an extension has found out, at the next tick."""
        with self._reload_lock:
            learned = self._learned | dict(attributes)
            if learned == self._learned:
                return
            self._learned, self._learned_more = learned, True
        self._waking.wake()

    def refuse_reload(self, error: Exception) -> None:
        """The configuration could not be read: the old one goes on, and this is told."""
        logger.error("the old configuration goes on: %s", describe(error))
        if self._graph is not None and self._graph.telemetry is not None:
            self._graph.telemetry.reloaded("refused")

    @property
    def last_tick_ns(self) -> int:
        """When the newest tick had ended, on the monotonic clock."""
        return self._last_tick_ns

    def status(self) -> AgentStatus:
        now_ns = self._clock.monotonic_ns()
        return self._board.agent(
            uptime_s=(now_ns - self._started_ns) / 1e9,
            tick_age_s=(now_ns - self._last_tick_ns) / 1e9,
            tick_limit_s=max(3 * self._configuration.service.interval, 10.0),
            collecting=self._graph.collecting if self._graph is not None else "",
            starting=not self._up.is_set(),
        )

    def _run(self) -> None:
        try:
            self._bring_up()
        except Exception as error:
            self._error = error
            if self._graph is not None:
                self._graph.stop(self._clock.monotonic_ns() + 1_000_000_000)
            self._close()
            return
        finally:
            self._up.set()
        try:
            with Pulse(self._clock) as pulse:
                self._loop(pulse)
            self._wind_up()
        except Exception as error:
            logger.debug("the agent ends", exc_info=error)
            self._error = RetinaError(
                f"the agent has a defect and ends: {describe(error)}",
                "Report it with the debug log (service.telemetry.logs.level).",
            )
        finally:
            self._last_collected.set()
            self._close()

    def _bring_up(self) -> None:
        logger.info("retina-otel %s starts with %s", __version__, self._configuration.source)
        self._monitor = InterfaceMonitor()
        graph = Graph(
            clock=self._clock,
            interfaces=self._monitor,
            facts=self._facts,
            board=self._board,
            status=self.status,
            learned=self.learn,
        )
        configuration = self._configuration
        resource = self._base(configuration)
        self._node = NodeIdentity(self._node_context(graph, resource))
        self._node.start()
        if disabled(self._environment):
            logger.warning("OTEL_SDK_DISABLED is true: nothing is collected and nothing is sent")
        self._graph = graph
        # Most of what is made lives long, as pods do, or goes without the collector: at its default
        # of 700 it took 7 % of the CPU of learning 30,000 pods.
        gc.set_threshold(_NEW_OBJECTS)
        # Why no receiver can run is the end of the agent, and told as such: once.
        self._board.hold()
        try:
            graph.apply(self._audible(configuration), resource, strict=True)
        except Exception:
            self._board.release()
            raise
        errors = {
            receiver.id: receiver.error
            for receiver in graph.receivers.values()
            if receiver.error is not None
        }
        for error in errors.values():
            if isinstance(error, ConfigError):
                raise error
        if errors and len(errors) == len(graph.receivers):
            raise NoReceiverError(errors)
        self._board.release()
        self._learned_in_time = "k8s.node.uid" in self._learned
        # What was made so far lives as long as the agent: the collector need not look at it again.
        gc.collect()
        gc.freeze()

    def _audible(self, configuration: Configuration) -> Configuration:
        """Nothing but extensions run where OTEL_SDK_DISABLED says so."""
        return configuration.silenced() if disabled(self._environment) else configuration

    def _base(self, configuration: Configuration) -> Resource:
        return detect(self._environment, configuration.service.telemetry.resource)

    def _resource(self, configuration: Configuration) -> Resource:
        """With what extensions have learned. An instance keeps its id: it is made of the node's
        uid only where that was known when the agent came up."""
        with self._reload_lock:
            learned, self._learned_more = self._learned, False
        return detect(
            self._environment,
            configuration.service.telemetry.resource,
            learned=learned,
            identifying=self._learned_in_time,
        )

    def _node_context(self, graph: Graph, resource: Resource) -> Context:
        assert self._monitor is not None
        return Context(
            id="node",
            clock=self._clock,
            logger=logger,
            ledger=self._board.ledger("extension/node", "things"),
            identity=graph.endpoints,
            interfaces=self._monitor,
            resource=resource,
        )

    def _loop(self, pulse: Pulse) -> None:
        """Sleeps until a tick is due, a receiver's descriptor is ready, or it is woken. A tick
        judges by time who had an address: after a gap in the pulse it is put off once."""
        with self._waking as waking:
            begun_ns = self._clock.monotonic_ns()
            interval_s = self._configuration.service.interval
            early_ns = [begun_ns + int(s * 1e9) for s in FIRST_TICKS_S if s < interval_s]
            due_ns = begun_ns + int(interval_s * 1e9)
            put_off_ns = 0
            while not self._stop.is_set():
                waking.watch(self._descriptors())
                next_ns = min([due_ns, *early_ns])
                wait_ns = (put_off_ns or next_ns) - self._clock.monotonic_ns()
                for owner, fd in waking.wait(max(0.0, wait_ns / 1e9)):
                    self._ready(owner, fd)
                changes = self._next is not None or self._learned_more
                now_ns = self._clock.monotonic_ns()
                if now_ns < put_off_ns or (now_ns < next_ns and not changes):
                    continue
                if not put_off_ns and (heard_ns := pulse.heard_ns()) > now_ns:
                    put_off_ns = heard_ns
                    continue
                put_off_ns = 0
                if changes:
                    self._reload()
                now_ns = self._clock.monotonic_ns()
                if now_ns < next_ns:
                    continue
                self._tick()
                early_ns = [moment for moment in early_ns if moment > now_ns]
                step_ns = int(self._configuration.service.interval * 1e9)
                # Ticks that were missed are not made up for: deltas cover the longer window.
                due_ns += step_ns * max(0, -(-(now_ns + 1 - due_ns) // step_ns))

    def _descriptors(self) -> dict[int, str]:
        """Those that wake the tick thread, and whose they are."""
        found = {} if self._monitor is None else {self._monitor.fd: _MONITOR}
        if self._graph is not None:
            for receiver in self._graph.receivers.values():
                found |= dict.fromkeys(receiver.fds(), receiver.id)
        return found

    def _ready(self, owner: str, fd: int) -> None:
        if owner == _MONITOR:
            self._poll_interfaces()
        elif self._graph is not None and (receiver := self._graph.receivers.get(owner)):
            receiver.ready(fd)

    def _poll_interfaces(self) -> Mapping[int, Interface]:
        if self._monitor is None:
            return {}
        try:
            self._monitor.poll()
        except RetinaError as error:
            logger.warning("interfaces can't be followed: %s", error)
        return self._monitor.current()

    def _tick(self, *, budget_s: float | None = None, last: bool = False) -> None:
        budget_s = budget_s or max(self._configuration.service.interval, SHORTEST_DEADLINE_S)
        self._clock.estimate()
        self._poll_interfaces()
        # Windows grow even if the wall clock steps back: time stands until it has caught up.
        end_ns = self._last_end_ns = max(self._clock.wall_ns(), self._last_end_ns + 1)
        deadline_ns = self._clock.monotonic_ns() + int(budget_s * 1e9)
        if self._graph is not None:
            try:
                self._graph.collect(end_ns, deadline_ns, last=last)
            except Exception as error:
                # Receivers and processors answer for themselves, so this is a defect of ours.
                # Better told, and visible as not ready, than to end and collect nothing at all.
                logger.error("a tick failed: %s", describe(error))
                logger.debug("a tick failed", exc_info=error)
                return
        self._last_tick_ns = self._clock.monotonic_ns()

    def _reload(self) -> None:
        with self._reload_lock:
            asked, self._next = self._next, None
        configuration = asked or self._configuration
        if self._graph is None:
            return
        self._tick()
        try:
            resource = self._resource(configuration)
            self._graph.apply(
                self._audible(configuration),
                resource,
                base=self._base(configuration),
            )
        except Exception as error:
            self.refuse_reload(error)
            return
        if self._node is not None:
            self._node.learn(resource)
        self._configuration = configuration
        if asked is None:
            logger.info("more is known of this node: the resource of what is sent has changed")
            return
        logger.info("runs the configuration read from %s", configuration.source)
        if self._graph.telemetry is not None:
            self._graph.telemetry.reloaded("applied")

    def _wind_up(self) -> None:
        if self._graph is None:
            return
        self._tick(budget_s=_LAST_COLLECTION_S, last=True)
        self._last_collected.set()
        grace_ns = int((GRACE_S - _EXPORTERS_S) * 1e9)
        self._clean = self._graph.stop(self._stop_deadline_ns - grace_ns)

    def _close(self) -> None:
        if self._monitor is not None:
            self._monitor.close()
            self._monitor = None
        self._facts.close()


def works(status: AgentStatus) -> list[str]:
    """Ids of the receivers that work, for the line that the agent prints when it is up."""
    return [
        one.id
        for one in status.components
        if one.kind is ComponentKind.RECEIVER and one.state.value in ("running", "degraded")
    ]
