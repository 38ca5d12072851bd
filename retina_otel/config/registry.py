"""The components there are, by entry points. A name is known at once, its module imported on use.

Importing one component never imports another: an agent pays memory and start-up time only for what
its configuration names, and a broken third-party package harms only who asks for it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, distributions

from retina_otel.component import Component, ComponentKind
from retina_otel.errors import ConfigError

DISTRIBUTION = "retina-otel"
GROUPS: Mapping[ComponentKind, str] = {
    kind: f"retina_otel.{kind.value}s"
    for kind in (
        ComponentKind.RECEIVER,
        ComponentKind.PROCESSOR,
        ComponentKind.EXPORTER,
        ComponentKind.EXTENSION,
    )
}
SECTIONS: Mapping[ComponentKind, str] = {kind: f"{kind.value}s" for kind in GROUPS}
"""The configuration's section for each kind."""


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word that `word` was probably meant to be, or an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.7)
    return close[0] if close else ""


def suggestion(word: str, known: Iterable[str]) -> str:
    """A remedy: the nearest known word, or all of them if none is near."""
    words = sorted(known)
    if close := nearest(word, words):
        return f"Did you mean '{close}'?"
    return f"Known here: {', '.join(words)}." if words else ""


@dataclass(frozen=True, slots=True)
class Offer:
    """A component that a package says it has; nothing of it is imported yet."""

    kind: ComponentKind
    type: str
    package: str
    version: str
    entry_point: EntryPoint

    @property
    def built_in(self) -> bool:
        return self.package == DISTRIBUTION


class Registry:
    """Offers by kind and type, and the components loaded so far."""

    def __init__(self, offers: Iterable[Offer]) -> None:
        self._offers: dict[tuple[ComponentKind, str], list[Offer]] = {}
        for offer in offers:
            same = self._offers.setdefault((offer.kind, offer.type), [])
            # A package is listed once for each place on sys.path where it is found.
            if all(offer.entry_point.value != other.entry_point.value for other in same):
                same.append(offer)
        self._loaded: dict[tuple[ComponentKind, str], Component] = {}

    @classmethod
    def installed(cls) -> Registry:
        """All components of all installed packages."""
        kinds = {group: kind for kind, group in GROUPS.items()}
        return cls(
            Offer(kinds[point.group], point.name, package.name, package.version, point)
            # One pass over the packages: `entry_points(group=...)` would read them for each kind.
            for package in distributions()
            for point in package.entry_points
            if point.group in kinds
        )

    def types(self, kind: ComponentKind) -> list[str]:
        return sorted(type_ for known, type_ in self._offers if known is kind)

    def offers(self) -> list[Offer]:
        """In the order of the configuration's sections, then by name."""
        order = list(GROUPS)
        found = [offer for offers in self._offers.values() for offer in offers]
        return sorted(found, key=lambda offer: (order.index(offer.kind), offer.type))

    def load(self, kind: ComponentKind, type_: str) -> Component:
        """Imports a component. Raises ConfigError if there is none, or it is broken."""
        if known := self._loaded.get((kind, type_)):
            return known
        offers = self._offers.get((kind, type_), [])
        if not offers:
            raise ConfigError(
                f"there is no {kind.value} of type '{type_}'", suggestion(type_, self.types(kind))
            )
        if len(offers) > 1:
            packages = " and ".join(sorted(offer.package for offer in offers))
            raise ConfigError(
                f"the {kind.value} '{type_}' is declared by {packages}", "Uninstall one of them."
            )
        component = _import(offers[0])
        self._loaded[kind, type_] = component
        return component


def _import(offer: Offer) -> Component:
    what = f"the {offer.kind.value} '{offer.type}' of package {offer.package} {offer.version}"
    remedy = f"Repair or uninstall {offer.package}."
    try:
        component = offer.entry_point.load()
    # A package can raise anything while it is imported; whatever it is, it is one clear line here.
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise ConfigError(f"{what} can't be imported: {reason}", remedy) from error
    if not isinstance(component, Component):
        found = type(component).__name__
        raise ConfigError(
            f"{what} is broken: {offer.entry_point.value} is a {found}, not a Component", remedy
        )
    if component.kind is not offer.kind or component.type != offer.type:
        raise ConfigError(
            f"{what} is broken: it calls itself {component.kind.value} '{component.type}'", remedy
        )
    return component
