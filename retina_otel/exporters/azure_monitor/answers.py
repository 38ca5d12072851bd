"""What an answer of Azure Monitor's ingestion means for a request, and for each envelope in it.

What may pass later is tried again: that is most of it, because a role, a token or a quota comes
back. An answer to a part of a request says by index which envelopes it is about.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from retina_otel.delivery.http.responses import Response
from retina_otel.delivery.outcome import Outcome, Result
from retina_otel.delivery.retry import parse_retry_after

_RETRYABLE = frozenset({401, 403, 408, 429, 500, 502, 503, 504})
_QUOTA = frozenset({402, 439})
_QUOTA_PAUSE_S = 60.0
"""A quota that is used up comes back at an hour of the day, which no answer has to tell."""
_MAX_MESSAGE = 300

_REMEDIES = {
    400: "Check that the connection string is of this resource",
    401: "The resource wants Entra tokens: set auth.azure_ad, and let the identity be one that has "
    "the role Monitoring Metrics Publisher on it",
    403: "Give the identity the role Monitoring Metrics Publisher on the resource",
    404: "Take the connection string anew: the ingestion endpoint is another one",
    413: "Set max_request_bytes to less",
    429: "Azure asks for less: a longer interval or fewer attributes help",
    439: "The resource's daily cap is reached: raise it, send less, or wait until it begins anew",
}
_REMEDIES |= {402: _REMEDIES[439], 307: _REMEDIES[404], 308: _REMEDIES[404]}


@dataclass(frozen=True, slots=True)
class Verdict:
    """`again` are the indexes of envelopes that may pass later; the request is done otherwise."""

    outcome: Outcome
    again: tuple[int, ...] = ()


def judge(response: Response, n_items: int, where: str, wall_ns: int) -> Verdict:
    """`where` is the endpoint as it may be shown."""
    status = response.status
    wait = parse_retry_after(response.header("Retry-After"), wall_ns)
    track = _track(response)
    if status == 206 and not track:
        # Which part was taken is not known: at least once.
        lost = f"{where}: took a part, and what it says of the rest can't be read"
        return Verdict(Outcome(Result.RETRY, "unreadable", lost, retry_after_s=wait))
    if status in {200, 206}:
        return _partly(track, n_items, where, wait)
    said = _said(track, response)
    message = f"{where}: HTTP {status}" + (f": {said}" if said else "")
    remedy = _REMEDIES.get(status, "")
    if status in _QUOTA:
        pause = _QUOTA_PAUSE_S if wait is None else wait
        return Verdict(Outcome(Result.RETRY, "quota", message, remedy, retry_after_s=pause))
    if status in _RETRYABLE or 300 <= status < 400:
        return Verdict(Outcome(Result.RETRY, f"http_{status}", message, remedy, retry_after_s=wait))
    if status == 413:
        return Verdict(Outcome(Result.TOO_LARGE, "too_large", message, remedy))
    return Verdict(Outcome(Result.REFUSED, f"http_{status}", message, remedy))


def _partly(track: dict[str, Any], n_items: int, where: str, wait: float | None) -> Verdict:
    errors = [each for each in _list(track.get("errors")) if isinstance(each, dict)]
    again: set[int] = set()
    refused: set[int] = set()
    for error in errors:
        index, status = error.get("index"), _status(error)
        if isinstance(index, int) and 0 <= index < n_items:
            later = status in _RETRYABLE or status in _QUOTA
            (again if later else refused).add(index)
    refused -= again
    received, accepted = track.get("itemsReceived"), track.get("itemsAccepted")
    rejected = len(refused)
    if isinstance(received, int) and isinstance(accepted, int):
        rejected = max(rejected, min(received, n_items) - accepted - len(again))
    rejected = min(rejected, n_items - len(again))
    if not again and not rejected:
        return Verdict(Outcome(Result.ACCEPTED))
    if again and wait is None and any(_status(error) in _QUOTA for error in errors):
        wait = _QUOTA_PAUSE_S
    message = f"{where}: took {n_items - len(again) - rejected} of {n_items} items"
    if said := _first_message(errors):
        message += f": {said}"
    return Verdict(
        Outcome(
            Result.ACCEPTED,
            "partial_success",
            message,
            rejected=rejected,
            retry_after_s=wait,
        ),
        tuple(sorted(again)),
    )


def _status(error: dict[str, Any]) -> int | None:
    status = error.get("statusCode")
    return status if isinstance(status, int) else None


def _track(response: Response) -> dict[str, Any]:
    """The body as a TrackResponse; empty if it is none."""
    try:
        body = json.loads(response.body)
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}


def _said(track: dict[str, Any], response: Response) -> str:
    if track:
        return _first_message(_list(track.get("errors"))) or _one_line(track.get("message", ""))
    if (response.header("Content-Type") or "").startswith("text/plain"):
        return _one_line(response.body.decode(errors="replace"))
    return ""


def _first_message(errors: list[Any]) -> str:
    return next(
        (
            _one_line(each["message"])
            for each in errors
            if isinstance(each, dict) and each.get("message")
        ),
        "",
    )


def _one_line(text: object) -> str:
    line = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    return line if len(line) <= _MAX_MESSAGE else line[: _MAX_MESSAGE - 1] + "…"


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
