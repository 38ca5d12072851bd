"""How to reach an API server, as the official client understands kubeconfig and pods' own files.

The official client is loaded in a short-lived child process: it costs 24 MB for as long as a
process lives, and is asked once. `python -m retina_otel.kubernetes.api.login` writes one JSON
object to its standard output, which is a pipe to the process that started it.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path

from retina_otel.errors import RetinaError

_TIMEOUT_S = 60.0
"""Plugins may ask a cloud for a token."""
_LARGEST_ANSWER = 1 << 20
_LONGEST_LINE = 1_000
_HARMLESS = frozenset({"ImportError", "MemoryError", "ModuleNotFoundError"})
"""Errors whose text is about the installation."""


@dataclass(frozen=True, slots=True)
class Login:
    """Where the API server is, and who we are there. Secrets stay out of `repr`."""

    server: str
    ca: str | None = None
    """PEM certificates; None: the system's trust store."""
    certificate: str | None = None
    key: str | None = field(default=None, repr=False)
    authorization: str | None = field(default=None, repr=False)
    """Value of the header, unless `token_file` is set."""
    token_file: str | None = None
    expires_s: float | None = None
    """When credentials end, in seconds since 1970."""
    verify: bool = True
    server_name: str | None = None
    """The name in the server's certificate, where it is not the host of `server`."""
    proxy: str | None = None
    files: tuple[str, ...] = ()
    """What was read: when one of them changes, it is time to read again."""


def log_in(kubeconfig: Path | None, context: str | None) -> Login:
    """Without a kubeconfig: $KUBECONFIG or ~/.kube/config if there is one, else the files of a pod.

    Raises RetinaError if there is nothing, or a plugin fails.
    """
    question = json.dumps({"kubeconfig": str(kubeconfig) if kubeconfig else "", "context": context})
    try:
        child = subprocess.run(
            [sys.executable, "-m", __name__],
            input=question.encode(),
            capture_output=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RetinaError(
            f"Kubernetes credentials can't be read: {type(error).__name__}",
            "Run the credential plugin of the kubeconfig by hand: it may wait for an answer",
        ) from None
    try:
        answer = json.loads(child.stdout[:_LARGEST_ANSWER])
    except ValueError:
        raise RetinaError(
            f"Kubernetes credentials can't be read: a child process {_end_of(child)}",
            "Check that this installation of retina-otel is whole, and has enough memory",
        ) from None
    if "error" in answer:
        raise RetinaError(answer["error"], answer["remedy"])
    return Login(**answer | {"files": tuple(answer["files"])})


def _end_of(child: subprocess.CompletedProcess[bytes]) -> str:
    """How it ended, without what a plugin or an error may have quoted of secrets."""
    if child.returncode < 0:
        return f"was ended by signal {-child.returncode}"
    lines = child.stderr[-_LONGEST_LINE:].decode(errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    if last.startswith(f"{sys.executable}: "):  # the interpreter's own
        return f"did not start: {last.removeprefix(f'{sys.executable}: ')}"
    name, _, _ = last.partition(":")
    if name in _HARMLESS:
        return f"failed: {last}"
    known = name.isidentifier() and name.endswith("Error")
    return f"ended with {child.returncode}" + (f": {name}" if known else "")


# ------------------------------------------------------------------------------ the child process


def _read_kubeconfig(paths: str, context: str | None) -> Login:
    from kubernetes.client import Configuration
    from kubernetes.config.kube_config import KubeConfigLoader, KubeConfigMerger

    merger = KubeConfigMerger(paths)
    said = _Listening()
    logging.getLogger().addHandler(said)
    loader = KubeConfigLoader(
        config_dict=merger.config, active_context=context, config_base_path=None
    )
    found = Configuration()
    loader.load_and_set(found)
    authorization = found.api_key.get("BearerToken")
    user_name = loader.current_context["context"].get("user")
    users = merger.config["users"]
    user = users.get_with_name(user_name, safe=True) if user_name else None
    section = user["user"] if user is not None and user.value.get("user") else None
    token_file = None
    if section and "exec" in section and not authorization and not found.cert_file:
        raise RetinaError(
            f"The credential plugin {section['exec']['command']} of user {user_name} failed"
            f"{said.exit_code()}",
            "Run it by hand to see what it says",
        )
    if user is not None and section and "tokenFile" in section and "token" not in section:
        folder = os.path.dirname(os.path.abspath(user.path or paths))
        token_file = os.path.normpath(os.path.join(folder, section["tokenFile"]))
    expiry: datetime | None = getattr(loader, "expiry", None)
    # Inline data is in temporary files of this process: they are gone when it ends.
    named = [found.ssl_ca_cert, found.cert_file, found.key_file]
    return Login(
        server=found.host,
        ca=_text(found.ssl_ca_cert),
        certificate=_text(found.cert_file),
        key=_text(found.key_file),
        authorization=None if token_file else authorization,
        token_file=token_file,
        expires_s=expiry.timestamp() if expiry else None,
        verify=bool(found.verify_ssl),
        server_name=found.tls_server_name,
        proxy=found.proxy,
        files=(*map(os.path.abspath, merger.paths), *(one for one in named if one)),
    )


def _read_pod_files() -> Login:
    from kubernetes.client import Configuration
    from kubernetes.config import incluster_config

    found = Configuration()
    incluster_config.load_incluster_config(found)
    return Login(
        server=found.host,
        ca=_text(found.ssl_ca_cert),
        token_file=incluster_config.SERVICE_TOKEN_FILENAME,
        files=(str(found.ssl_ca_cert),),
    )


class _Listening(logging.Handler):
    """What the official client logs: of a plugin's failure it tells in no other way."""

    def __init__(self) -> None:
        super().__init__()
        self._messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self._messages.append(record.getMessage())

    def exit_code(self) -> str:
        # The rest is what the plugin wrote, which may hold anything.
        for message in self._messages:
            head, _, code = message.partition("process returned ")
            if head == "exec: " and (number := code.partition(".")[0]).lstrip("-").isdigit():
                return f" with exit code {number}"
        return ""


def _text(path: str | None) -> str | None:
    return Path(path).read_text() if path else None


def _find(kubeconfig: str, context: str | None) -> Login:
    from kubernetes.config import ConfigException

    named = kubeconfig or os.environ.get("KUBECONFIG", "")
    paths = named or "~/.kube/config"
    there = [one for one in paths.split(os.pathsep) if Path(one).expanduser().exists()]
    try:
        if there:
            return _read_kubeconfig(paths, context)
        if kubeconfig or (named and "KUBERNETES_SERVICE_HOST" not in os.environ):
            raise RetinaError(f"{named} does not exist", "Name a kubeconfig that does")
        return _read_pod_files()
    except RetinaError:
        raise
    except Exception as error:
        what = f"{paths} is no usable kubeconfig" if there else "No API server known"
        # Messages of the official client name keys and files, never their values. Those of other
        # errors may quote the file.
        tells = isinstance(error, ConfigException | OSError)
        raise RetinaError(
            f"{what}: {error if tells else type(error).__name__}",
            "Set kubeconfig to a file that kubectl accepts, or run in a pod with a ServiceAccount",
        ) from error


def _main() -> None:
    try:
        question = json.loads(sys.stdin.buffer.read() or b"{}")
        answer = asdict(_find(question.get("kubeconfig", ""), question.get("context")))
    except RetinaError as error:
        answer = {"error": error.message, "remedy": error.remedy}
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    _main()
