"""Who the agent is for Microsoft Entra ID (Azure AD): settings, and the credential they stand for.

Nothing is asked of Entra before the first token is needed; the credential keeps tokens until
shortly before they end. azure-identity is an extra, imported when a credential is made.
"""

from __future__ import annotations

import logging
from enum import Enum
from typing import Any

from retina_otel.delivery.auth.authorizer import Authorizer, Request
from retina_otel.delivery.strict import StrictSettings
from retina_otel.errors import ConfigError, DeliveryError

NO_TOKEN = "Check auth.azure_ad: whether that identity exists here and may be used by this pod"
_PATIENCE: dict[str, Any] = {"connection_timeout": 5, "read_timeout": 5, "retry_total": 0}
"""Seconds; theirs are 300, and three retries. Who asks for a token tries again by itself."""
_SILENT = logging.NullHandler()
_AZURE_MONITOR = "https://monitor.azure.com/"


def silence() -> None:
    """Keeps Azure's packages from writing to standard error, past the agent's log, what each
    request's outcome says too."""
    logging.getLogger("azure").addHandler(_SILENT)


class Identity(Enum):
    DEFAULT = "default"
    """The first that works of: environment variables, workload identity, managed identity, and
    what developers have (Azure CLI)."""
    WORKLOAD = "workload_identity"
    """The pod's own, by its projected service account token (AKS workload identity)."""
    MANAGED = "managed_identity"
    """The node's, or the one assigned to it with `client_id`."""


class AzureAdSettings(StrictSettings):
    """How the agent gets tokens of Microsoft Entra ID."""

    identity: Identity = Identity.DEFAULT
    """Whose token: `workload_identity` (the pod's), `managed_identity` (the node's), or `default`,
    the first that works of those, environment variables (AZURE_CLIENT_ID, AZURE_TENANT_ID,
    AZURE_CLIENT_SECRET) and the Azure CLI's login."""

    client_id: str = ""
    """Which identity, where there are several. Empty: AZURE_CLIENT_ID, else the only one."""

    tenant_id: str = ""
    """Entra tenant of a workload identity. Empty: AZURE_TENANT_ID."""

    audience: str = ""
    """What the tokens are for. Empty: Azure Monitor of the public cloud, or of the one that a
    connection string names. In China https://monitor.azure.cn/, for the US government
    https://monitor.azure.us/."""

    def authorizer(self) -> Authorizer:
        """Raises ConfigError if the credential can't be made here."""
        return _Entra(self.credential(), f"{self.audience or _AZURE_MONITOR}/.default")

    def credential(self) -> Any:
        """An azure.core TokenCredential. Raises ConfigError if it can't be made here."""
        silence()
        try:
            from azure import identity
        except ImportError as error:
            raise ConfigError(
                f"azure_ad needs azure-identity: {error}", "Install retina-otel[azure]"
            ) from error
        client_id, tenant_id = self.client_id or None, self.tenant_id or None
        try:
            if self.identity is Identity.MANAGED:
                return identity.ManagedIdentityCredential(client_id=client_id, **_PATIENCE)
            if self.identity is Identity.WORKLOAD:
                return identity.WorkloadIdentityCredential(
                    client_id=client_id, tenant_id=tenant_id, **_PATIENCE
                )
        except ValueError as error:
            raise ConfigError(
                f"azure_ad.identity is {self.identity.value}, which is not to be had here: {error}",
                "Label the pod azure.workload.identity/use=true, or choose another identity",
            ) from error
        found = {
            "managed_identity_client_id": self.client_id,  # the workload identity's too
            "workload_identity_tenant_id": self.tenant_id,
        }
        return identity.DefaultAzureCredential(
            **{key: value for key, value in found.items() if value}, **_PATIENCE
        )


class _Entra:
    """Gets a token when there is none, or shortly before the last one ends."""

    def __init__(self, credential: Any, scope: str) -> None:
        self._credential = credential
        self._scope = scope

    def headers(self, request: Request) -> dict[str, str]:
        from azure.core.exceptions import AzureError

        try:
            token = self._credential.get_token(self._scope).token
        except AzureError as error:
            said = str(error).partition("\n")[0].strip()
            raise DeliveryError(f"Entra gives no token: {said}", NO_TOKEN) from error
        return {"Authorization": f"Bearer {token}"}

    def refused(self) -> None:
        """Entra's tokens are good until their end: a role that is missing is given meanwhile."""
