"""Which events are wanted, in the words of Hubble's `observe`.

Values of one option are alternatives; all options must hold. A filter is judged once for each
distinct attribute set of a block, not for each event.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial

import numpy as np

from retina_otel.errors import RetinaError
from retina_otel.model.batches import AttributeValue
from retina_otel.observe.records import VERDICTS, Mask, Observed, Part

Values = tuple[str, ...]
Attributes = Mapping[str, AttributeValue]

SIDES = ("source", "destination")
EVENTS = {"flow": "retina.flow", "drop": "retina.drop"}


def _pod(attributes: Attributes, value: str) -> bool:
    namespace, slash, name = value.rpartition("/")
    if attributes.get("k8s.namespace.name") != (namespace if slash else "default"):
        return False
    return str(attributes.get("k8s.pod.name", "")).startswith(name)


def _namespace(attributes: Attributes, value: str) -> bool:
    return attributes.get("k8s.namespace.name") == value


def _service(attributes: Attributes, value: str) -> bool:
    namespace, slash, name = value.rpartition("/")
    here = attributes.get("k8s.namespace.name")
    return (not slash or here == namespace) and attributes.get("k8s.service.name") == name


def _workload(attributes: Attributes, value: str) -> bool:
    kind, slash, name = value.rpartition("/")
    here = attributes.get("k8s.owner.type")
    return (not slash or here == kind.lower()) and attributes.get("k8s.owner.name") == name


def _address(attributes: Attributes, value: str) -> bool:
    address = attributes.get("address")
    return address is not None and ipaddress.ip_address(str(address)) in ipaddress.ip_network(
        value, strict=False
    )


def _label(attributes: Attributes, value: str) -> bool:
    key, equals, wanted = value.partition("=")
    found = attributes.get(f"k8s.pod.label.{key}")
    return found is not None and (not equals or found == wanted)


_END_TESTS: Mapping[str, Callable[[Attributes, str], bool]] = {
    "pod": _pod,
    "namespace": _namespace,
    "service": _service,
    "workload": _workload,
    "ip": _address,
    "label": _label,
}


@dataclass(frozen=True, slots=True)
class Filter:
    """What is wanted; empty means everything. Prefixes `from_` and `to_` name one end; without,
    either end will do."""

    pod: Values = ()
    from_pod: Values = ()
    to_pod: Values = ()
    namespace: Values = ()
    from_namespace: Values = ()
    to_namespace: Values = ()
    service: Values = ()
    from_service: Values = ()
    to_service: Values = ()
    workload: Values = ()
    from_workload: Values = ()
    to_workload: Values = ()
    ip: Values = ()
    from_ip: Values = ()
    to_ip: Values = ()
    label: Values = ()
    from_label: Values = ()
    to_label: Values = ()
    port: Values = ()
    from_port: Values = ()
    to_port: Values = ()
    protocol: Values = ()
    verdict: Values = ()
    event: Values = ()
    drop_reason: Values = ()
    since_ns: int = 0
    until_ns: int = 0

    @classmethod
    def parse(cls, given: Mapping[str, object]) -> Filter:
        """From JSON, as another process has sent it. Raises RetinaError for what is none."""
        known = {one.name for one in fields(cls)}
        checked: dict[str, object] = {}
        for name, value in given.items():
            if name not in known:
                raise RetinaError(f"there is no filter '{name}'", "Use the same version at both.")
            if name.endswith("_ns"):
                if not isinstance(value, int):
                    raise RetinaError(f"{name} is no whole number", "Give ns since 1970.")
                checked[name] = value
            elif isinstance(value, list) and all(isinstance(item, str) for item in value):
                checked[name] = tuple(value)
            else:
                raise RetinaError(f"{name} is no list of texts", "Give a list.")
        return cls(**checked).checked()  # type: ignore[arg-type]

    def checked(self) -> Filter:
        """Raises RetinaError for a value that can match nothing."""
        for name in ("ip", "from_ip", "to_ip"):
            for value in getattr(self, name):
                try:
                    ipaddress.ip_network(value, strict=False)
                except ValueError:
                    raise RetinaError(
                        f"{value!r} is neither an address nor a network",
                        "Write 10.0.0.1 or 10.0.0.0/8.",
                    ) from None
        for name in ("port", "from_port", "to_port"):
            for value in getattr(self, name):
                if not value.isascii() or not value.isdigit() or int(value) > 65535:
                    raise RetinaError(f"{value!r} is no port", "Give a number up to 65535.")
        for value in self.verdict:
            if value not in VERDICTS:
                raise RetinaError(f"no verdict '{value}'", f"Verdicts: {', '.join(VERDICTS)}.")
        for value in self.event:
            if value not in EVENTS:
                raise RetinaError(f"no event '{value}'", f"Events: {', '.join(EVENTS)}.")
        return self

    def to_json(self) -> dict[str, object]:
        return {
            one.name: list(value) if isinstance(value, tuple) else value
            for one in fields(self)
            if (value := getattr(self, one.name))
        }

    def mask(self, observed: Observed) -> Mask:
        """Which events of a block are wanted."""
        chosen: Mask = np.ones(len(observed), np.bool_)
        if self.verdict and observed.verdict not in self.verdict:
            chosen[:] = False
        if self.event and observed.name not in {EVENTS[event] for event in self.event}:
            chosen[:] = False
        if self.since_ns:
            chosen &= observed.time_ns >= self.since_ns
        if self.until_ns:
            chosen &= observed.time_ns <= self.until_ns
        _in_words(chosen, observed.own, "network.transport", self.protocol)
        _in_words(chosen, observed.own, "retina.drop.reason", self.drop_reason)
        for what, test in _END_TESTS.items():
            self._both(chosen, what, partial(_end, observed, test))
        self._both(chosen, "port", partial(_port, observed))
        return chosen

    def _both(self, chosen: Mask, what: str, judge: Callable[[str, Values], Mask]) -> None:
        either, source, destination = (
            getattr(self, prefix + what) for prefix in ("", "from_", "to_")
        )
        if either:
            chosen &= judge("source", either) | judge("destination", either)
        if source:
            chosen &= judge("source", source)
        if destination:
            chosen &= judge("destination", destination)


def _in_words(chosen: Mask, part: Part, name: str, wanted: Values) -> None:
    if wanted:
        lower = {value.lower() for value in wanted}
        chosen &= _by_set(part, lambda attributes: attributes.get(name) in lower)


def _by_set(part: Part, test: Callable[[Attributes], bool]) -> Mask:
    judged = np.fromiter((test(dict(pairs)) for pairs in part.pairs), np.bool_, len(part.pairs))
    mask: Mask = judged[part.codes]
    return mask


def _end(
    observed: Observed, test: Callable[[Attributes, str], bool], side: str, values: Values
) -> Mask:
    prefix = f"{side}."

    def matches(attributes: Attributes) -> bool:
        own = {
            name.removeprefix(prefix): value
            for name, value in attributes.items()
            if name.startswith(prefix)
        }
        return any(test(own, value) for value in values)

    return _by_set(getattr(observed, side), matches)


def _port(observed: Observed, side: str, values: Values) -> Mask:
    column = observed.integers.get(f"{side}.port")
    if column is None:
        return np.zeros(len(observed), np.bool_)
    mask: Mask = np.isin(column, [int(value) for value in values])
    return mask
