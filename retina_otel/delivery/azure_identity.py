"""Who the agent is for Microsoft Entra ID (Azure AD): settings, and the credential they stand for.

Nothing is asked of Entra before the first token is needed; the credential keeps tokens until
shortly before they end. azure-identity is an extra, imported when a credential is made.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

from retina_otel.delivery.strict import StrictSettings
from retina_otel.errors import ConfigError


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

    def credential(self) -> Any:
        """An azure.core TokenCredential. Raises ConfigError if it can't be made here."""
        try:
            from azure import identity
        except ImportError as error:
            raise ConfigError(
                f"azure_ad needs azure-identity: {error}", "Install retina-otel[azure]"
            ) from error
        client_id, tenant_id = self.client_id or None, self.tenant_id or None
        try:
            if self.identity is Identity.MANAGED:
                return identity.ManagedIdentityCredential(client_id=client_id)
            if self.identity is Identity.WORKLOAD:
                return identity.WorkloadIdentityCredential(
                    client_id=client_id, tenant_id=tenant_id
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
        return identity.DefaultAzureCredential(**{k: v for k, v in found.items() if v})
