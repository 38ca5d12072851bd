"""Endpoints, their claims on an address, and the timeline that these make: at each moment one
owner, nobody, or nobody knows.

Wrong is worse than unknown: where two pods may be meant, neither is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from retina_otel.model.batches import AttributeValue

FOREVER = (1 << 63) - 1
"""A time that does not come."""

NOBODY = -1
"""In place of a row: nobody claims the address."""
AMBIGUOUS = -2
"""In place of a row: more than one may have it."""

Segment = tuple[int, int]
"""(from_ns, row, NOBODY or AMBIGUOUS): so it is until the next segment begins."""


class EndpointKind(Enum):
    UNKNOWN = 0
    POD = 1
    NODE = 2
    SERVICE = 3
    CIDR = 4
    WORLD = 5


PRECEDENCE = {
    EndpointKind.WORLD: 0,
    EndpointKind.CIDR: 1,
    EndpointKind.SERVICE: 2,
    EndpointKind.POD: 3,
    # A pod on the host's network has the node's address: by address it can't be told from the node.
    # Of other pods see `owner`.
    EndpointKind.NODE: 4,
    EndpointKind.UNKNOWN: 5,
}

_EXCLUSIVE = (EndpointKind.POD, EndpointKind.SERVICE)
"""Of these, two with one address are never the same thing told twice."""


@dataclass(frozen=True, slots=True)
class Validity:
    """When an endpoint has its addresses, in ns of wall time, as far as its source can tell: surely
    from `certain_from` until `certain_until`, and surely not before `possible_from` or from
    `possible_until` on.

    Times are told in whole seconds, so what comes before `certain_from` may as well be of somebody
    who had the address in the same second and was never heard of: nobody knows, then. After
    `certain_until`, which may come before `certain_from`, it is still there unless another may be.
    """

    possible_from: int = 0
    certain_from: int = 0
    certain_until: int = FOREVER
    possible_until: int = FOREVER

    @property
    def ever(self) -> bool:
        return self.possible_from < self.possible_until


ALWAYS = Validity()


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One identity. `key` is what makes it the same one across updates (a pod's uid)."""

    kind: EndpointKind
    key: str
    attributes: Mapping[str, AttributeValue]
    """Unprefixed: `k8s.pod.name`, `k8s.namespace.name`, ... Two rows may have equal attributes."""
    addresses: Sequence[str] = ()
    """Addresses ("10.0.0.1", "fd00::1"), or networks ("10.0.0.0/8") for CIDR. A WORLD endpoint
    without any stands for every address that is neither private nor of special use."""
    interfaces: Sequence[int] = field(default_factory=tuple)
    """ifindexes on the node behind which it lives."""
    netns: Sequence[int] = field(default_factory=tuple)
    """Inodes of its network namespaces."""
    netns_since_ns: int = 0
    """Before, these inodes may have been others': the kernel gives a number again at once."""
    valid: Validity = ALWAYS
    """When its single addresses are its own. Networks have no times."""
    aliases: Sequence[str] = ()
    """What else a pod of this node is called: the ids of its containers."""
    node_ports: Sequence[int] = ()
    """Where a service is met at nodes' addresses: IP protocol << 16 | port."""


@dataclass(frozen=True, slots=True, eq=False)
class Claim:
    """An endpoint says that an address is its own."""

    row: int
    key: str
    kind: EndpointKind
    valid: Validity = ALWAYS
    weak: bool = False
    """The endpoint is gone, and nobody has said since when: it counts only if no other does."""


def timeline(claims: Sequence[Claim]) -> list[Segment]:
    """Segments in order of time; neighbours differ, and before the first there is nobody.

    A certain claim goes before those that are only possible, and among certain ones the kind
    decides. That a pod may have an address ends the certainty of the one that had it before.
    """
    segments: list[Segment] = []
    for group in _overlapping(claims):
        one = group[0]
        found = alone(one.row, one.valid) if len(group) == 1 else _sweep(group)
        if segments and segments[-1][0] == found[0][0]:
            segments.pop()
        if segments and segments[-1][1] == found[0][1]:
            segments.extend(found[1:])
        else:
            segments.extend(found)
    return segments


def alone(row: int, valid: Validity) -> list[Segment]:
    """The timeline of an address that nobody else claims."""
    if valid.possible_until == FOREVER and valid.certain_from <= valid.possible_from:
        return [(valid.possible_from, row)]
    if valid.possible_from >= valid.possible_until:
        return []
    segments: list[Segment] = []
    if valid.certain_from > valid.possible_from:
        segments.append((valid.possible_from, AMBIGUOUS))
    if valid.certain_from < valid.possible_until:
        segments.append((max(valid.possible_from, valid.certain_from), row))
    if valid.possible_until < FOREVER:
        segments.append((valid.possible_until, NOBODY))
    return segments


def one_after_another(spans: Sequence[tuple[Validity, int]]) -> list[Segment] | None:
    """The timeline of rows of which no two can be meant at once, the usual case; else None."""
    segments: list[Segment] = []
    end_ns = -1
    for valid, row in sorted(spans, key=_begins):
        from_ns, until_ns = valid.possible_from, valid.possible_until
        if from_ns < end_ns or from_ns >= until_ns:
            return None
        if from_ns == end_ns:
            segments.pop()
        own = alone(row, valid)
        # Two leads in a row, as of pods that were gone before they were certain, are one.
        segments.extend(own[1:] if segments and segments[-1][1] == own[0][1] else own)
        end_ns = until_ns
    return segments


def _begins(span: tuple[Validity, int]) -> int:
    return span[0].possible_from


def _overlapping(claims: Iterable[Claim]) -> Iterator[list[Claim]]:
    """In order of time, those that can't be judged apart; without those that never were."""
    group: list[Claim] = []
    until_ns = 0
    ever = [claim for claim in claims if claim.valid.ever]
    for claim in sorted(ever, key=lambda one: one.valid.possible_from):
        if group and claim.valid.possible_from >= until_ns:
            yield group
            group = []
        group.append(claim)
        until_ns = max(until_ns, claim.valid.possible_until)
    if group:
        yield group


def _sweep(claims: Sequence[Claim]) -> list[Segment]:
    changes: dict[int, list[tuple[set[Claim], Claim]]] = {}
    possible: set[Claim] = set()
    leading: set[Claim] = set()
    certain: set[Claim] = set()

    def between(from_ns: int, until_ns: int, group: set[Claim], claim: Claim) -> None:
        if from_ns < until_ns:
            changes.setdefault(from_ns, []).append((group, claim))
            changes.setdefault(until_ns, []).append((group, claim))

    for claim, until_ns in _certainties(claims):
        valid = claim.valid
        between(valid.possible_from, valid.possible_until, possible, claim)
        begun_ns = max(valid.certain_from, valid.possible_from)
        between(valid.possible_from, min(begun_ns, valid.possible_until), leading, claim)
        if not claim.weak:
            between(begun_ns, min(until_ns, valid.possible_until), certain, claim)
    segments: list[Segment] = []
    last = NOBODY
    for time_ns in sorted(changes):
        if time_ns == FOREVER:
            break
        for group, claim in changes[time_ns]:
            group.symmetric_difference_update((claim,))
        row = owner(possible, certain, leading)
        if row != last:
            segments.append((time_ns, row))
            last = row
    return segments


def _certainties(claims: Sequence[Claim]) -> Iterable[tuple[Claim, int]]:
    """Each claim with the time until which it is certain at most."""
    next_ns = FOREVER
    later_ns = FOREVER
    for claim in sorted(claims, key=lambda one: -one.valid.possible_from):
        if claim.kind is not EndpointKind.POD:
            yield claim, claim.valid.certain_until
            continue
        if claim.valid.possible_from != later_ns:
            next_ns, later_ns = later_ns, claim.valid.possible_from
        yield claim, min(claim.valid.certain_until, next_ns)


def owner(
    possible: Iterable[Claim], certain: Iterable[Claim], leading: Iterable[Claim] = ()
) -> int:
    """Whose an address is, of those who may have it, those who surely have it, and those of whom
    it is not certain that they have it yet."""
    surely = list(certain)
    if surely:
        # The machine may be gone, and its address the pod's: of both it is heard later.
        at_node = any(claim.kind is EndpointKind.NODE for claim in surely)
        if at_node and any(_may_have_it(claim) for claim in possible):
            return AMBIGUOUS
        return _first(surely)
    if any(True for _ in leading):
        return AMBIGUOUS
    strong = [claim for claim in possible if not claim.weak]
    if strong:
        return strong[0].row if len(strong) == 1 else _same(strong)
    return _first(list(possible))


def _may_have_it(claim: Claim) -> bool:
    """A pod of which the times are known, so that it is not one on the node's own network."""
    return claim.kind is EndpointKind.POD and claim.valid != ALWAYS and not claim.weak


def _first(claims: list[Claim]) -> int:
    """Of claims that are as good as each other, that of the kind which goes first."""
    if not claims:
        return NOBODY
    highest = max(PRECEDENCE[claim.kind] for claim in claims)
    first = [claim for claim in claims if PRECEDENCE[claim.kind] == highest]
    return _same(first) if first[0].kind in _EXCLUSIVE else max(claim.row for claim in first)


def _same(claims: list[Claim]) -> int:
    """The row of claims that mean one thing, told by several sources."""
    if any(claim.key != claims[0].key for claim in claims):
        return AMBIGUOUS
    return max(claim.row for claim in claims)
