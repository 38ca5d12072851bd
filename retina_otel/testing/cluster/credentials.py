"""Who may speak with the API server: a certificate authority, client certificates, kubeconfigs."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trustme
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec


@dataclass(frozen=True, slots=True)
class Pair:
    """Files of a certificate (with its chain) and its private key, both PEM."""

    certificate: Path
    key: Path


class Authority:
    """The cluster's certificate authority; its files are in `folder`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = folder
        self._authority = trustme.CA(organization_name="retina-otel lab")
        self.certificate = folder / "ca.crt"
        self._authority.cert_pem.write_to_path(str(self.certificate))
        self.service_account_key = folder / "service-account.key"
        self.service_account_key.write_bytes(
            ec.generate_private_key(ec.SECP256R1()).private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.TraditionalOpenSSL,
                serialization.NoEncryption(),
            )
        )

    def server(self, name: str, *identities: str) -> Pair:
        """A certificate for a server with these host names and addresses."""
        return self._write(name, self._authority.issue_cert(*identities))

    def client(self, user: str, group: str = "") -> Pair:
        """A client certificate, which the API server reads as a user and a group."""
        # An empty organization would become trustme's own.
        issued = self._authority.issue_cert(
            "lab.invalid", common_name=user, organization_name=group or "retina-otel lab"
        )
        return self._write(user.replace(":", "-"), issued)

    def _write(self, name: str, issued: trustme.LeafCert) -> Pair:
        pair = Pair(self._folder / f"{name}.crt", self._folder / f"{name}.key")
        pair.certificate.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(str(pair.key))
        return pair


def write_kubeconfig(path: Path, server: str, authority: Path, user: dict[str, Any]) -> Path:
    """Writes a kubeconfig with everything inside it, and returns its path."""
    path.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [
                    {
                        "name": "lab",
                        "cluster": {
                            "server": server,
                            "certificate-authority-data": _encode(authority),
                        },
                    }
                ],
                "users": [{"name": "user", "user": user}],
                "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "user"}}],
                "current-context": "lab",
            }
        )
    )
    path.chmod(0o600)
    return path


def certificate_user(pair: Pair) -> dict[str, str]:
    """A kubeconfig's user that shows a client certificate."""
    return {
        "client-certificate-data": _encode(pair.certificate),
        "client-key-data": _encode(pair.key),
    }


def _encode(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
