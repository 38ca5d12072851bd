"""What is lacking is told once, as one sentence, for as long as it lasts."""

from __future__ import annotations

from retina_otel.extensions.kubernetes.reasons import Reasons


def test_one_fault_of_several_watches_is_told_once_with_all_it_costs() -> None:
    told: list[str] = []
    reasons = Reasons(told.append)
    reasons.set("pods", "it is away", "pods")
    reasons.set("nodes", "it is away", "zones")
    reasons.set("owner", "grant `get rollouts`")
    assert told == [], "before a tick"
    reasons.tell()
    reasons.tell()
    assert told == ["pods, zones may be unknown or out of date: it is away; grant `get rollouts`"]
    reasons.set("pods", "")
    reasons.set("nodes", "")
    reasons.tell()
    assert told[-1] == "grant `get rollouts`"
    reasons.set("owner", "")
    reasons.tell()
    assert told[-1] == ""
    assert len(told) == 3
