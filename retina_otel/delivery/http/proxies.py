"""Which proxy stands before a backend: a setting's, else the one that the environment names.

Never one before this machine itself. The URL may hold a password, so it is in no message.
"""

from __future__ import annotations

import ipaddress
import urllib.request
from urllib.parse import urlsplit

from retina_otel.errors import ConfigError

DIRECT = "none"
"""As a setting: no proxy, whatever the environment names."""


def proxy_for(scheme: str, host: str, setting: str = "") -> str | None:
    """The proxy's URL for requests of a scheme ("http", "https") to a host; None for none. Raises
    ConfigError if what the environment names is none."""
    if setting:
        return None if setting == DIRECT else setting
    if is_this_machine(host):
        return None
    if urllib.request.proxy_bypass_environment(host):  # type: ignore[attr-defined]
        return None
    found = urllib.request.getproxies_environment().get(scheme)
    if not found:
        return None
    url = found if "://" in found else f"http://{found}"
    if not _is_proxy(url):
        raise ConfigError(
            f"{scheme.upper()}_PROXY names no proxy that can be used",
            "Write it as http://proxy:3128, or set proxy_url, to none for no proxy",
        )
    return url


def is_this_machine(host: str) -> bool:
    """Whether a host of an endpoint is loopback, by its name alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def fault_of_proxy(url: str) -> str:
    """Why a setting names no proxy, "" if it does; without what may be secret in it."""
    if url == DIRECT:
        return ""
    usable = _is_proxy(url) and urlsplit(url).port
    return "" if usable else "it is no http://host:port of a proxy, nor `none`"


def _is_proxy(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
