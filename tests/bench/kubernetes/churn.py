"""Changes pods at a steady rate: `python -m tests.bench.kubernetes.churn KUBECONFIG RATE SECONDS`.

Of ten changes four are heartbeats of status, two are new addresses, two pods come and two go.
Writes how many of each were made.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from retina_otel.kubernetes.api.access import Access, Session
from tests.bench.kubernetes import shapes

_PODS = "/api/v1/namespaces/team-000/pods"
_THREADS = 4
_ROUND = ("beat", "add", "beat", "move", "delete", "beat", "add", "move", "beat", "delete")


def _churn(kubeconfig: Path, thread: int, rate: float, seconds: float) -> Counter[str]:
    made: Counter[str] = Counter()
    body, status = shapes.pod()
    names: list[str] = []
    with Access.from_settings(kubeconfig).session() as session:
        kept = f"kept-{thread}-{time.time_ns()}"
        _add(session, kept, body, status)
        started = time.monotonic()
        turn = 0
        while (due := started + (turn * _THREADS + thread) / rate) < started + seconds:
            time.sleep(max(0.0, due - time.monotonic()))
            what = _ROUND[turn % len(_ROUND)]
            if what == "add":
                names.append(f"churn-{thread}-{time.time_ns()}")
                session.request("POST", _PODS, body=_named(body, names[-1]))
            elif what == "delete":
                _delete(session, names.pop(0))
            elif what == "beat":
                _patch(session, kept, {"message": f"beat {turn}"})
            else:
                address = f"10.200.{thread}.{turn % 256}"
                _patch(session, kept, {"podIP": address, "podIPs": [{"ip": address}]})
            made[what] += 1
            turn += 1
        for name in (*names, kept):
            _delete(session, name)
    return made


def _named(body: shapes.Json, name: str) -> shapes.Json:
    return {**body, "metadata": {**body["metadata"], "name": name}}


def _add(session: Session, name: str, body: shapes.Json, status: shapes.Json) -> None:
    session.request("POST", _PODS, body=_named(body, name))
    _patch(session, name, status)


def _patch(session: Session, name: str, status: dict[str, Any]) -> None:
    session.request(
        "PATCH",
        f"{_PODS}/{name}/status",
        body={"status": status},
        content_type="application/merge-patch+json",
    )


def _delete(session: Session, name: str) -> None:
    session.request("DELETE", f"{_PODS}/{name}", body={"gracePeriodSeconds": 0})


def main() -> None:
    kubeconfig, rate, seconds = Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
    started = time.monotonic()
    with ThreadPoolExecutor(_THREADS) as pool:
        parts = [pool.submit(_churn, kubeconfig, n, rate, seconds) for n in range(_THREADS)]
        made = sum((part.result() for part in parts), Counter[str]())
    print(json.dumps({"seconds": time.monotonic() - started, **made}))


if __name__ == "__main__":
    main()
