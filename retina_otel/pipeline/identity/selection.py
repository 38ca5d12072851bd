"""Selection: which pods are observed. Everything is, until somebody says otherwise.

Set by an identity extension (any thread); receivers ask it which interfaces and namespaces need
not be counted at all, the identity processor which rows to leave out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from retina_otel.pipeline.identity.endpoints import Endpoint


class View(Enum):
    """How much is told about ends; Retina's basic, local context and remote context."""

    NODE = "node"
    LOCAL = "local"
    REMOTE = "remote"


@dataclass(frozen=True, slots=True)
class _State:
    view: View
    observed: Callable[[Endpoint], bool] | None
    epoch: int


class Selection:
    """One for each agent."""

    def __init__(self) -> None:
        self._state = _State(View.REMOTE, None, 0)

    @property
    def epoch(self) -> int:
        """Grows with each change."""
        return self._state.epoch

    @property
    def view(self) -> View:
        return self._state.view

    @property
    def everything(self) -> bool:
        return self._state.observed is None

    def observes(self, endpoint: Endpoint) -> bool:
        """Whether a pod of this node is to be counted. What is no pod always is."""
        observed = self._state.observed
        return observed is None or observed(endpoint)

    def set(
        self, *, view: View | None = None, observed: Callable[[Endpoint], bool] | None = None
    ) -> None:
        """`observed` of None: everything. Called by one extension."""
        before = self._state
        self._state = _State(view or before.view, observed, before.epoch + 1)
