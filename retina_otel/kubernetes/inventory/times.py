"""When a pod has its addresses, by what its object says and when that was heard.

The API tells it late and in whole seconds, so there are four times: see `Validity`. The kubelet
asks for addresses after status.startTime, has them when the first container starts, and gives them
back some time after the last container has ended, but before it says so; the object goes later
still. Between a request to delete, or the containers' end, and that nothing is certain.
"""

from __future__ import annotations

from retina_otel.kubernetes.objects import Pod, Service
from retina_otel.pipeline.identity.endpoints import ALWAYS, FOREVER, Validity

_SECOND = 1_000_000_000
TERMINAL_PHASES = frozenset({"Succeeded", "Failed"})
"""No container of the pod runs, or will run again."""


def validity(
    pod: Pod, now_ns: int, before: Validity | None = None, *, moved: bool = False
) -> Validity:
    """Of the addresses that `pod` has now, as heard at `now_ns`. `before` is what was said of the
    same addresses before: what was certain stays so. `moved`: it had others before, so that its
    containers' start tells nothing of these."""
    asked_ns = pod.meta.deletion_ns - pod.meta.deletion_grace_ns if pod.meta.deletion_ns else 0
    heard_ns = min(now_ns, before.certain_from) if before else now_ns
    certain_from = heard_ns if moved else min(pod.running_ns or heard_ns, heard_ns)
    possible_from = min(pod.started_ns or pod.meta.created_ns, certain_from)
    if before:
        possible_from = min(possible_from, before.possible_from)
    certain_until = asked_ns or FOREVER
    possible_until = FOREVER
    if pod.phase in TERMINAL_PHASES:
        possible_until = now_ns
        # An evicted pod has no containers that could tell when it ended: nothing is certain.
        certain_until = min(certain_until, pod.ended_ns or certain_from)
    return _ordered(possible_from, certain_from, certain_until, possible_until)


def ended(before: Validity, pod: Pod | None, now_ns: int) -> Validity:
    """When the object is gone, as heard at `now_ns`. `pod` is its last state; None if it was only
    missing from a list, so that nobody knows since when."""
    certain_until, possible_until = before.certain_from, min(before.possible_until, now_ns)
    if pod is not None and pod.ended_ns:
        certain_until = pod.ended_ns
    if pod is not None and pod.meta.deletion_ns:
        asked_ns = pod.meta.deletion_ns - pod.meta.deletion_grace_ns
        certain_until = min(asked_ns, pod.ended_ns or asked_ns)
    certain_until = min(certain_until, before.certain_until)
    return _ordered(before.possible_from, before.certain_from, certain_until, possible_until)


def service_validity(service: Service) -> Validity:
    """Another may have had its address just before, as where a service is replaced by force. When
    it is gone is not told: nobody has it then, or the next one."""
    created_ns = service.meta.created_ns
    return Validity(created_ns, created_ns + _SECOND) if created_ns else ALWAYS


def _ordered(
    possible_from: int, certain_from: int, certain_until: int, possible_until: int
) -> Validity:
    """Nothing is certain where the end of that would come before its begin, as with pods that live
    for less than the seconds of the API, or with clocks of nodes that differ."""
    possible_until = max(possible_until, possible_from)
    return Validity(possible_from, certain_from, min(certain_until, possible_until), possible_until)
