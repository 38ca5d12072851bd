"""The status of MetricsConfigurations: what is wrong with each, by path, for who writes it.

Written by the cluster's one identity service; agents only read. An Errored object keeps what was
accepted of it last: that is in force until it is right again or deleted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from retina_otel.kubernetes.api.access import AccessError, Session
from retina_otel.kubernetes.metrics_configuration.objects import (
    PATH,
    MetricsConfiguration,
    Problem,
    Status,
)

ACCEPTED, WARNING, ERRORED = "Accepted", "Warning", "Errored"

JSON_PATCH = "application/json-patch+json"
_LONGEST_REASON = 4096


def desired_status(objects: Iterable[MetricsConfiguration]) -> dict[str, Status]:
    """By name, what each object's status should be."""
    objects = list(objects)
    including: dict[str, str] = {}
    for one in sorted(objects, key=lambda one: (one.created_ns, one.name)):
        if one.in_force is not None:
            for namespace in one.in_force.include or ():
                including.setdefault(namespace, one.name)
    return {one.name: _status(one, including) for one in objects}


def outdated(objects: Iterable[MetricsConfiguration]) -> list[tuple[MetricsConfiguration, Status]]:
    """Objects whose status is not as it should be, with the one that they should have."""
    objects = list(objects)
    wanted = desired_status(objects)
    return [(one, wanted[one.name]) for one in objects if one.status != wanted[one.name]]


def status_patch(one: MetricsConfiguration, status: Status) -> list[dict[str, Any]]:
    """A JSON patch that replaces the whole status, if the object is still the one that was read."""
    value: dict[str, Any] = {"state": status.state, "reason": status.reason}
    if status.last_known_spec is not None:
        value["lastKnownSpec"] = status.last_known_spec
    return [
        # Refused with 409 where somebody has changed the object since.
        {"op": "replace", "path": "/metadata/resourceVersion", "value": one.resource_version},
        {"op": "add", "path": "/status", "value": value},
    ]


def write_status(session: Session, one: MetricsConfiguration, status: Status) -> None:
    """Writes one status. Raises AccessError; status 409 means that a newer object is on its way by
    the watch, with which to try again, and 404 that it has been deleted."""
    patch = status_patch(one, status)
    path = f"{PATH}/{one.name}"
    try:
        session.request("PATCH", f"{path}/status", body=patch, content_type=JSON_PATCH)
    except AccessError as error:
        if error.status != 404:
            raise
        # A definition without the status subresource, or there is no such object any more.
        session.request("PATCH", path, body=patch, content_type=JSON_PATCH)


def _status(one: MetricsConfiguration, including: Mapping[str, str]) -> Status:
    problems = [*one.problems, *_overridden(one, including)]
    errors = [problem for problem in problems if problem.error]
    if errors:
        told = [str(problem) for problem in errors]
        if one.last_known is not None:
            told.append("what was accepted before stays in force")
        return Status(ERRORED, _reason(told), one.status.last_known_spec)
    state = WARNING if problems else ACCEPTED
    return Status(state, _reason([str(problem) for problem in problems]), one.raw)


def _overridden(one: MetricsConfiguration, including: Mapping[str, str]) -> Iterable[Problem]:
    if one.spec is None:
        return
    for number, namespace in enumerate(one.spec.exclude or ()):
        if namespace in including:
            yield Problem(
                f"spec.namespaces.exclude[{number}]",
                f'"{namespace}" is observed: {including[namespace]} includes it',
            )


def _reason(told: list[str]) -> str:
    text = "; ".join(told)
    return text if len(text) <= _LONGEST_REASON else text[: _LONGEST_REASON - 3] + "..."
