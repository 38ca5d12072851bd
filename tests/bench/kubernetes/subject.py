"""What is measured, in a process of its own: all watchers of an agent, and nothing else.

`python -m tests.bench.kubernetes.subject KUBECONFIG [NODE]`: with a node, pods of that node only.
Writes a line of JSON when everything is synced, and one for each line that it reads.
"""

from __future__ import annotations

import json
import resource
import sys
import threading
import time
from pathlib import Path
from resource import RUSAGE_CHILDREN, RUSAGE_SELF

from retina_otel.kubernetes.api.access import Access
from retina_otel.kubernetes.api.resources import RESOURCES
from retina_otel.kubernetes.api.watch import Change, Timing, Wanted, Watcher, WatchState
from retina_otel.kubernetes.objects import Kind

_ZONES = frozenset({"topology.kubernetes.io/zone", "topology.kubernetes.io/region"})


def memory_mb() -> dict[str, float]:
    lines = Path("/proc/self/status").read_text().splitlines()
    about = dict(line.split(":", 1) for line in lines if ":" in line)
    return {key: int(about[key].split()[0]) / 1024 for key in ("VmRSS", "VmHWM")}


def cpu_s() -> float:
    """With that of the child that reads credentials."""
    own, children = (resource.getrusage(who) for who in (RUSAGE_SELF, RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def main() -> None:
    kubeconfig = Path(sys.argv[1])
    node = sys.argv[2] if len(sys.argv) > 2 else ""
    base = memory_mb()
    cpu, started = cpu_s(), time.monotonic()
    left = set(RESOURCES)
    synced = threading.Event()
    counts = dict.fromkeys(RESOURCES, 0)
    changes = {"batches": 0, "upserted": 0, "deleted": 0}

    def change(change: Change) -> None:
        if change.full:
            counts[change.kind] = len(change.upserted)
        changes["batches"] += 1
        changes["upserted"] += len(change.upserted)
        changes["deleted"] += len(change.deleted)

    def watch(kind: Kind) -> Watcher:
        def state(state: WatchState) -> None:
            if state.synced:
                left.discard(kind)
            if not left:
                synced.set()

        return Watcher(
            access,
            kind,
            on_change=change,
            on_state=state,
            selector=f"spec.nodeName={node}" if node and kind is Kind.POD else "",
            wanted=Wanted(_ZONES if kind is Kind.NODE else frozenset(), containers_of_node=node),
            timing=Timing(phase_s=0.0),
        )

    access = Access.from_settings(kubeconfig)
    watchers = [watch(kind) for kind in RESOURCES]
    for each in watchers:
        each.start()
    synced.wait()

    def tell() -> None:
        figures = {
            "wall_s": time.monotonic() - started,
            "cpu_s": cpu_s() - cpu,
            "base_mb": base["VmRSS"],
            "rss_mb": memory_mb()["VmRSS"],
            "peak_mb": memory_mb()["VmHWM"],
            "objects": {kind.value: count for kind, count in counts.items()},
            **changes,
        }
        print(json.dumps(figures), flush=True)

    tell()
    for _ in sys.stdin:
        tell()
    for each in watchers:
        each.stop()


if __name__ == "__main__":
    main()
