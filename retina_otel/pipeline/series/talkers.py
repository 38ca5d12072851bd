"""Talkers: which series a table keeps when more want to be than may.

Weights (bytes, where they are known) are counted for every live series and for the heaviest of
those that have none, at most TRACKED times the limit in all: Misra-Gries, a batch at a time, so an
estimate is never too high and at most total / (TRACKED * limit) too low. Estimates and total fade
by half in each `half_life_ns`: the top is that of now.

A newcomer takes the place of the weakest series if it is ADVANTAGE times as heavy. Replacements
are rationed, so that the series ever shown are bounded, not only those that live: at most a burst
(a share of the limit) at once, and as many as the limit in a half-life. Not rationed is what has
more than total / K, K = limit / 2: that is always shown.

With a share per namespace, what has more than total / K or is within the share of its namespace
comes before all others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from retina_otel.pipeline.columns import grown
from retina_otel.pipeline.hash_index import MISSING, HashIndex

TRACKED = 4
ADVANTAGE = 1.5
_HEAVY = ADVANTAGE + 1 / TRACKED
"""Times total / limit. If the estimate of a newcomer is higher, it outweighs the weakest series by
ADVANTAGE; what has twice total / limit is estimated so high at least."""
_NEGLIGIBLE = 0.5

_Weights = npt.NDArray[np.float64]
_Keys = npt.NDArray[np.uint64]
_Rows = npt.NDArray[np.int64]
_Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class TalkerSettings:
    """How series are chosen."""

    limit: int
    half_life_ns: int
    burst: float = 0.05
    """Share of the limit that may be replaced at once. Where that is less than one series, those
    that came first stay."""
    per_namespace: int | None = None
    """Series that each namespace is sure of as long as it wants them."""


@dataclass(frozen=True, slots=True)
class Contenders:
    """Distinct keys that have no live series, and what was just added to them."""

    keys: _Keys
    """Digests: what the key says, not the ids it has at present."""
    namespaces: _Keys
    """Digests; all 0 where namespaces do not count."""
    weights: _Weights


@dataclass(frozen=True, slots=True)
class Verdict:
    admitted: _Mask
    """By contender: it gets a series, to which what was just added goes already."""
    estimates: _Weights
    """By contender: its weight from now on."""
    displaced: _Rows
    """Rows whose series end."""


class Talkers:
    """Weights of the series of one table, by row, and of those that want one. Tick thread only."""

    def __init__(self, settings: TalkerSettings, capacity: int) -> None:
        self.settings = settings
        self._burst = int(settings.burst * settings.limit)
        self._allowance = float(self._burst)
        self._time_ns = 0
        self._total = 0.0
        self._weights: _Weights = np.zeros(capacity, np.float64)
        self._namespaces: _Keys = np.zeros(capacity, np.uint64)
        self._keys: _Keys = np.zeros(0, np.uint64)
        self._estimates: _Weights = np.zeros(0, np.float64)
        self._key_namespaces: _Keys = np.zeros(0, np.uint64)
        self._index = HashIndex()

    def grow(self, capacity: int) -> None:
        self._weights = grown(self._weights, capacity)
        self._namespaces = grown(self._namespaces, capacity)

    @property
    def tracked(self) -> int:
        """How many keys without a series are remembered."""
        return len(self._keys)

    def heard(self, rows: npt.NDArray[np.int32], weights: _Weights) -> None:
        """Something was added to live series."""
        np.add.at(self._weights, rows, weights)
        self._total += float(weights.sum())

    def seat(self, rows: npt.NDArray[np.int32], weights: _Weights, namespaces: _Keys) -> None:
        """These rows have a series from now on."""
        self._weights[rows] = np.maximum(weights, 0.0)
        self._namespaces[rows] = namespaces

    def pass_time(self, time_ns: int) -> None:
        """A window has ended."""
        lives = (time_ns - self._time_ns) / self.settings.half_life_ns if self._time_ns else 0.0
        self._time_ns = time_ns
        self._allowance = min(self._allowance + lives * self.settings.limit, float(self._burst))
        fading = 0.5**lives
        self._total *= fading
        self._weights *= fading
        self._estimates *= fading
        if len(self._keys) and self._estimates.min() < _NEGLIGIBLE:
            kept = self._estimates >= _NEGLIGIBLE
            self._remember(self._keys[kept], self._estimates[kept], self._key_namespaces[kept])

    def judge(self, contenders: Contenders, live: _Rows) -> Verdict:
        """Who of the contenders gets a series, and which of the `live` rows make room for them.

        Those who are turned away are remembered; the displaced by `turn_away`."""
        self._total += float(contenders.weights.sum())
        found = self._index.find(contenders.keys)
        known = found != MISSING
        estimates = contenders.weights.copy()
        estimates[known] += self._estimates[found[known]]
        absent = np.ones(len(self._keys), np.bool_)
        absent[found[known]] = False
        self._subtract(estimates, live, absent)
        admitted, displaced = self._places(contenders, estimates, live)
        turned = ~admitted & (estimates > 0)
        kept = absent & (self._estimates > 0)
        self._remember(
            np.concatenate([self._keys[kept], contenders.keys[turned]]),
            np.concatenate([self._estimates[kept], estimates[turned]]),
            np.concatenate([self._key_namespaces[kept], contenders.namespaces[turned]]),
        )
        return Verdict(admitted, estimates, displaced)

    def turn_away(self, rows: _Rows, keys: _Keys) -> None:
        """The series of these rows were displaced; their keys may contend again."""
        self._remember(
            np.concatenate([self._keys, keys]),
            np.concatenate([self._estimates, self._weights[rows]]),
            np.concatenate([self._key_namespaces, self._namespaces[rows]]),
        )

    def _subtract(self, estimates: _Weights, live: _Rows, absent: _Mask) -> None:
        """Keeps at most TRACKED * limit estimates above zero. In place."""
        bound = TRACKED * self.settings.limit
        everyone = np.concatenate([self._weights[live], estimates, self._estimates[absent]])
        if len(everyone) <= bound:
            return
        place = len(everyone) - bound - 1
        cut = float(np.partition(everyone, place)[place])
        estimates -= cut
        self._estimates -= cut
        self._weights[live] = np.maximum(self._weights[live] - cut, 0.0)

    def _places(
        self, contenders: Contenders, estimates: _Weights, live: _Rows
    ) -> tuple[_Mask, _Rows]:
        limit = self.settings.limit
        admitted = np.zeros(len(estimates), np.bool_)
        room = limit - len(live)
        if len(estimates) <= room:
            admitted[:] = True
            return admitted, live[:0]
        settled = self._weights[live] * ADVANTAGE
        weighty = np.flatnonzero(estimates > 0) if room == 0 else np.arange(len(estimates))
        ranks = estimates[weighty]
        heavy = ranks > self._total * _HEAVY / limit
        if self.settings.per_namespace is not None:
            ranks, settled = self._by_share(contenders.namespaces[weighty], ranks, live, settled)
        ration = max(int(self._allowance), int(np.count_nonzero(heavy))) if self._burst else 0
        best = _first(-ranks, room + min(ration, len(live)))
        seated, others = best[:room], best[room:]
        admitted[weighty[seated]] = True
        weakest = _first(settled, len(others))
        able = int(np.count_nonzero(ranks[others] > settled[weakest]))
        count = min(able, max(int(self._allowance), int(np.count_nonzero(heavy[others]))))
        self._allowance = max(0.0, self._allowance - count)
        admitted[weighty[others[:count]]] = True
        return admitted, live[weakest[:count]]

    def _by_share(
        self, namespaces: _Keys, estimates: _Weights, live: _Rows, settled: _Weights
    ) -> tuple[_Weights, _Weights]:
        """Ranks of contenders and of live rows, so that those that are heavy or within the share
        of their namespace are above all others."""
        share = self.settings.per_namespace or 0
        weights = np.concatenate([settled, estimates])
        namespaces = np.concatenate([self._namespaces[live], namespaces])
        order = np.argsort(-weights, kind="stable")
        order = order[np.argsort(namespaces[order], kind="stable")]
        ordered = namespaces[order]
        first = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
        sizes = np.diff(np.append(first, len(ordered)))
        place = np.arange(len(ordered)) - np.repeat(first, sizes)
        first_class = np.zeros(len(weights), np.bool_)
        first_class[order] = place < share
        first_class |= weights > self._total * _HEAVY / self.settings.limit
        weights[first_class] += float(weights.max(initial=0.0)) + 1.0
        return weights[len(live) :], weights[: len(live)]

    def _remember(self, keys: _Keys, estimates: _Weights, namespaces: _Keys) -> None:
        self._keys, self._estimates, self._key_namespaces = keys, estimates, namespaces
        self._index = HashIndex.of(keys, np.arange(len(keys), dtype=np.int32))


def _first(values: _Weights, count: int) -> _Rows:
    """Places of the `count` least values, in order; of equal ones those that come first."""
    if count >= len(values):
        return np.argsort(values, kind="stable")
    if count <= 0:
        return np.zeros(0, np.int64)
    bound = np.partition(values, count - 1)[count - 1]
    places = np.flatnonzero(values <= bound)
    return places[np.argsort(values[places], kind="stable")][:count]
