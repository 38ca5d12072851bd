"""A connection string of Application Insights, taken apart and checked.

Its instrumentation key says where data lands and lets anybody add to it: it is in no message and no
repr.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field

from retina_otel.delivery.http.sender import fault_of_url
from retina_otel.errors import ConfigError

VARIABLE = "APPLICATIONINSIGHTS_CONNECTION_STRING"
_DEFAULT_ENDPOINT = "https://dc.services.visualstudio.com"
_KEY = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_REMEDY = (
    "Copy it whole from the resource's overview page in the Azure portal: "
    "InstrumentationKey=...;IngestionEndpoint=https://..."
)


@dataclass(frozen=True, slots=True)
class ConnectionString:
    """Where to send."""

    instrumentation_key: str = field(repr=False)
    endpoint: str
    """Base URL of ingestion, without a slash at its end."""
    audience: str = ""
    """What Entra's tokens are for; empty: Azure Monitor of the public cloud."""

    @property
    def digest(self) -> str:
        """Tells resources apart; eight characters, from which no key can be found."""
        return hashlib.sha256(self.instrumentation_key.encode()).hexdigest()[:8]

    def text(self) -> str:
        """Complete, so that nothing is added to it from the environment."""
        parts = {
            "InstrumentationKey": self.instrumentation_key,
            "IngestionEndpoint": self.endpoint,
            "LiveEndpoint": self.endpoint,
            **({"AADAudience": self.audience} if self.audience else {}),
        }
        return ";".join(f"{name}={value}" for name, value in parts.items())


def parse(text: str, source: str) -> ConnectionString:
    """`source` says in errors where the text is from. Raises ConfigError, which does not show it.

    Pairs may be separated by more than one semicolon, and one may stand at the end; names are known
    in any case.
    """
    pairs: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        name, equals, value = part.partition("=")
        if not equals:
            raise ConfigError(f"{source} has a part that is no name=value pair", _REMEDY)
        pairs[name.strip().lower()] = value.strip()
    key = pairs.get("instrumentationkey", "").lower()
    if not _KEY.fullmatch(key):
        what = "an InstrumentationKey that is no UUID" if key else "no InstrumentationKey"
        raise ConfigError(f"{source} has {what}", _REMEDY)
    if pairs.get("authorization", "ikey").lower() != "ikey":
        raise ConfigError(f"{source} wants an authorization that is not ikey", _REMEDY)
    endpoint = pairs.get("ingestionendpoint", "")
    if not endpoint and pairs.get("endpointsuffix"):
        location = pairs.get("location", "")
        endpoint = f"https://{location and location + '.'}dc.{pairs['endpointsuffix']}"
    endpoint = (endpoint or _DEFAULT_ENDPOINT).rstrip("/")
    fault = fault_of_url(endpoint)
    if not fault and set(endpoint) & set("@?#="):
        fault = "is not scheme, host and port alone"
    if fault:
        raise ConfigError(f"{source} has an IngestionEndpoint that {fault}", _REMEDY)
    return ConnectionString(key, endpoint, pairs.get("aadaudience", ""))
