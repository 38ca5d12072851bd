"""How a test speaks with an API server: as administrator, or with exactly the rights it names."""

from __future__ import annotations

import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from kubernetes.client import (
    ApiClient,
    ApiException,
    AuthenticationV1TokenRequest,
    CoreV1Api,
    V1TokenRequestSpec,
)
from kubernetes.config import new_client_from_config

from retina_otel.errors import RetinaError
from retina_otel.testing.cluster.binaries import binary
from retina_otel.testing.cluster.credentials import Authority, certificate_user, write_kubeconfig

T = TypeVar("T")
Rule = Mapping[str, Sequence[str]]
"""A rule of a Role: `{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}`."""

POLL_SECONDS = 0.05
TOKEN_SECONDS = 24 * 3600


class Access(ABC):
    """Clients, kubectl and kubeconfigs for an API server at `url`.

    `inner_url` is where the cluster's own nodes and pods reach it; for a control plane on loopback
    both are the same.
    """

    url: str
    inner_url: str
    authority: Authority

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700)
        self._kubeconfigs = folder
        self._clients: list[ApiClient] = []
        self._core: CoreV1Api | None = None
        self.kubeconfig = self.kubeconfig_of_user("admin", "system:masters")
        """Path of the administrator's kubeconfig."""

    @abstractmethod
    def logs(self) -> str:
        """The ends of all logs, for a failure's report."""

    def client(self, kubeconfig: Path | None = None) -> ApiClient:
        """A new client, the administrator's unless another kubeconfig is given. Closed at the
        end."""
        made: ApiClient = new_client_from_config(str(kubeconfig or self.kubeconfig))
        self._clients.append(made)
        return made

    def core(self) -> CoreV1Api:
        """The administrator's client of the core group, always the same."""
        if self._core is None:
            self._core = CoreV1Api(self.client())
        return self._core

    def close_clients(self) -> None:
        for each in self._clients:
            each.close()
        self._clients.clear()

    def kubectl(
        self, *arguments: str, stdin: str = "", check: bool = True, timeout_s: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Runs kubectl as administrator. With `check` a failure raises RetinaError with what it
        said."""
        done = subprocess.run(
            [binary("kubectl"), f"--kubeconfig={self.kubeconfig}", *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        if check and done.returncode != 0:
            said = (done.stderr or done.stdout).strip()
            raise RetinaError(f"kubectl {' '.join(arguments)} ended with {done.returncode}: {said}")
        return done

    def apply(self, manifest: str | Path) -> None:
        """Creates or changes the objects of a YAML text or file."""
        text = manifest.read_text() if isinstance(manifest, Path) else manifest
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=text)

    def delete(self, manifest: str | Path) -> None:
        """Deletes the objects of a YAML text or file, and waits until they are gone."""
        text = manifest.read_text() if isinstance(manifest, Path) else manifest
        self.kubectl("delete", "--ignore-not-found", "--wait", "-f", "-", stdin=text)

    def wait_for(self, condition: Callable[[], T | None], *, what: str, timeout_s: float = 60) -> T:
        """What `condition` returns once that is true. Errors of the API count as not yet.

        Raises RetinaError with `what` and the ends of all logs after `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s
        refused = ""
        while True:
            try:
                if found := condition():
                    return found
            except (ApiException, OSError, RetinaError) as error:
                refused = f" ({error})"
            if time.monotonic() > deadline:
                raise RetinaError(f"no {what} within {timeout_s:g} s{refused}:\n{self.logs()}")
            time.sleep(POLL_SECONDS)

    # ------------------------------------------------------------------------------ kubeconfigs

    def kubeconfig_of_user(self, user: str, group: str = "", *, inner: bool = False) -> Path:
        """A kubeconfig with a client certificate for this user and group.

        `inner`: with the address by which nodes and pods reach the API server.
        """
        name = f"{user.replace(':', '-')}{'.inner' if inner else ''}.kubeconfig"
        return write_kubeconfig(
            self._kubeconfigs / name,
            self.inner_url if inner else self.url,
            self.authority.certificate,
            certificate_user(self.authority.client(user, group)),
        )

    def kubeconfig_for(
        self,
        name: str,
        rules: Sequence[Rule],
        *,
        namespace: str = "default",
        inner: bool = False,
        lifetime_s: int = TOKEN_SECONDS,
    ) -> Path:
        """A kubeconfig of the ServiceAccount `namespace/name`, which may do what `rules` say in the
        whole cluster, and nothing else. Made if it is not there; rules are replaced."""
        self.set_rights(name, rules, namespace=namespace)
        return write_kubeconfig(
            self._kubeconfigs / f"{namespace}-{name}{'.inner' if inner else ''}.kubeconfig",
            self.inner_url if inner else self.url,
            self.authority.certificate,
            {"token": self.token_for(name, namespace=namespace, lifetime_s=lifetime_s)},
        )

    def set_rights(self, name: str, rules: Sequence[Rule], *, namespace: str = "default") -> None:
        """Makes the ServiceAccount and gives it these rights in the whole cluster, no others."""
        role = f"lab:{namespace}:{name}"
        subject = {"kind": "ServiceAccount", "name": name, "namespace": namespace}
        rbac = "rbac.authorization.k8s.io"
        objects: list[dict[str, Any]] = [
            {
                "apiVersion": "v1",
                "kind": "ServiceAccount",
                "metadata": {"name": name, "namespace": namespace},
            },
            {
                "apiVersion": f"{rbac}/v1",
                "kind": "ClusterRole",
                "metadata": {"name": role},
                "rules": [dict(rule) for rule in rules],
            },
            {
                "apiVersion": f"{rbac}/v1",
                "kind": "ClusterRoleBinding",
                "metadata": {"name": role},
                "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": role},
                "subjects": [subject],
            },
        ]
        self.apply(yaml.safe_dump_all(objects))

    def token_for(
        self,
        name: str,
        *,
        namespace: str = "default",
        lifetime_s: int = TOKEN_SECONDS,
        audiences: Sequence[str] = (),
    ) -> str:
        """A token of an existing ServiceAccount, by TokenRequest; the API server lends none for
        less than 600 s."""
        request = AuthenticationV1TokenRequest(
            spec=V1TokenRequestSpec(expiration_seconds=lifetime_s, audiences=list(audiences))
        )
        answer: Any = self.core().create_namespaced_service_account_token(name, namespace, request)
        return str(answer.status.token)
