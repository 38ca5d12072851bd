"""Kubeconfigs and credentials are read as kubectl reads them, and never told."""

from __future__ import annotations

import base64
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml

from retina_otel.errors import RetinaError
from retina_otel.kubernetes.api.access import Access
from retina_otel.kubernetes.api.login import log_in

SECRET = "s3cr3t-t0ken"


def kubeconfig(folder: Path, user: dict[str, Any], **cluster: object) -> Path:
    path = folder / "kubeconfig"
    document = {
        "current-context": "a",
        "contexts": [
            {"name": "a", "context": {"cluster": "c", "user": "u"}},
            {"name": "b", "context": {"cluster": "other"}},
        ],
        "clusters": [
            {"name": "c", "cluster": {"server": "https://127.0.0.1:6443/", **cluster}},
            {"name": "other", "cluster": {"server": "http://127.0.0.1:8001"}},
        ],
        "users": [{"name": "u", "user": user}],
    }
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.fixture(autouse=True)
def _no_cluster_around(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"):
        monkeypatch.delenv(name, raising=False)


def test_a_token_becomes_a_header_and_is_told_nowhere(tmp_path: Path) -> None:
    path = kubeconfig(tmp_path, {"token": SECRET})
    login = log_in(path, None)
    assert login.server == "https://127.0.0.1:6443"
    assert login.authorization == f"Bearer {SECRET}"
    assert SECRET not in repr(login)
    assert Access.from_settings(path).headers()["Authorization"] == f"Bearer {SECRET}"


def test_another_context_is_another_server(tmp_path: Path) -> None:
    login = log_in(kubeconfig(tmp_path, {"token": SECRET}), "b")
    assert (login.server, login.authorization) == ("http://127.0.0.1:8001", None)


def test_the_environment_names_the_kubeconfig(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path, {"token": SECRET})))
    assert log_in(None, None).authorization == f"Bearer {SECRET}"


def test_a_token_file_is_read_for_each_request(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{SECRET}\n")
    access = Access.from_settings(kubeconfig(tmp_path, {"tokenFile": "token"}))
    assert access.headers()["Authorization"] == f"Bearer {SECRET}"
    (tmp_path / "token").write_text("next\n")
    assert access.headers()["Authorization"] == "Bearer next"


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "can't be read"), ("", "is empty"), (f"{SECRET}\nX-Other: 1", "no header may have")],
)
def test_a_token_file_without_a_token_is_named(
    tmp_path: Path, content: str | None, said: str
) -> None:
    (tmp_path / "token").write_text(SECRET)
    access = Access.from_settings(kubeconfig(tmp_path, {"tokenFile": "token"}))
    if content is None:
        (tmp_path / "token").unlink()
    else:
        (tmp_path / "token").write_text(content)
    with pytest.raises(RetinaError, match=said) as refused:
        access.headers()
    assert SECRET not in str(refused.value)


def test_a_kubeconfig_that_changes_is_read_again(tmp_path: Path) -> None:
    access = Access.from_settings(kubeconfig(tmp_path, {"token": "first"}))
    path = kubeconfig(tmp_path, {"token": "second"})
    os.utime(path, ns=(1, 1))
    assert access.headers()["Authorization"] == "Bearer second"


def test_certificates_in_files_and_in_the_kubeconfig_are_the_same(tmp_path: Path) -> None:
    ca = trustme.CA()
    certificate = ca.issue_cert("me.example.com")
    pem = {
        "certificate-authority": ca.cert_pem.bytes(),
        "client-certificate": certificate.cert_chain_pems[0].bytes(),
        "client-key": certificate.private_key_pem.bytes(),
    }
    for name, content in pem.items():
        (tmp_path / name).write_bytes(content)
    user_keys = ("client-certificate", "client-key")
    by_file = log_in(
        kubeconfig(
            tmp_path,
            {key: key for key in user_keys},
            **{"certificate-authority": "certificate-authority"},
        ),
        None,
    )
    inline = {f"{name}-data": base64.b64encode(each).decode() for name, each in pem.items()}
    path = kubeconfig(
        tmp_path,
        {f"{key}-data": inline[f"{key}-data"] for key in user_keys},
        **{"certificate-authority-data": inline["certificate-authority-data"]},
    )
    by_data = log_in(path, None)
    for login in (by_file, by_data):
        assert login.ca == pem["certificate-authority"].decode()
        assert login.certificate == pem["client-certificate"].decode()
        assert login.key == pem["client-key"].decode()
        assert "PRIVATE KEY" not in repr(login)
    assert len(Access.from_settings(path).ssl_context().get_ca_certs()) == 1


def test_a_key_of_another_certificate_is_refused(tmp_path: Path) -> None:
    ca = trustme.CA()
    one, other = ca.issue_cert("one.example.com"), ca.issue_cert("other.example.com")
    user = {
        "client-certificate-data": base64.b64encode(one.cert_chain_pems[0].bytes()).decode(),
        "client-key-data": base64.b64encode(other.private_key_pem.bytes()).decode(),
    }
    with pytest.raises(RetinaError, match="are no pair"):
        Access.from_settings(kubeconfig(tmp_path, user))


def test_names_checks_and_proxies_of_a_cluster_are_kept(tmp_path: Path) -> None:
    login = log_in(
        kubeconfig(
            tmp_path,
            {},
            **{
                "insecure-skip-tls-verify": True,
                "tls-server-name": "kubernetes",
                "proxy-url": "http://127.0.0.1:3128",
            },
        ),
        None,
    )
    assert (login.verify, login.server_name, login.proxy) == (
        False,
        "kubernetes",
        "http://127.0.0.1:3128",
    )


def plugin(folder: Path, script: str) -> dict[str, Any]:
    return {
        "exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": "sh",
            "args": ["-c", script],
            "interactiveMode": "Never",
        }
    }


def credential(expires: str) -> str:
    return json.dumps(
        {
            "apiVersion": "client.authentication.k8s.io/v1",
            "kind": "ExecCredential",
            "status": {"token": SECRET, "expirationTimestamp": expires},
        }
    )


def test_a_plugin_gives_a_token_and_says_when_it_ends(tmp_path: Path) -> None:
    login = log_in(
        kubeconfig(tmp_path, plugin(tmp_path, f"echo '{credential('2030-01-01T00:00:00Z')}'")),
        None,
    )
    assert login.authorization == f"Bearer {SECRET}"
    assert login.expires_s == 1_893_456_000


def test_a_plugin_that_fails_is_named_and_what_it_wrote_is_not_told(tmp_path: Path) -> None:
    path = kubeconfig(tmp_path, plugin(tmp_path, f"echo {SECRET} >&2; exit 3"))
    with pytest.raises(RetinaError, match="plugin sh of user u failed with exit code 3") as refused:
        log_in(path, None)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    "content", ["", "[]", "a: [", f"token: {SECRET}", "contexts: 3\nclusters: x\nusers: 1"]
)
def test_what_is_no_kubeconfig_is_refused_without_quoting_it(tmp_path: Path, content: str) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(content)
    with pytest.raises(RetinaError, match="no usable kubeconfig") as refused:
        log_in(path, None)
    assert SECRET not in str(refused.value)


def test_a_context_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(RetinaError, match="missing"):
        log_in(kubeconfig(tmp_path, {}), "missing")


def test_where_no_cluster_is_known_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(RetinaError, match="No API server known") as refused:
        log_in(None, None)
    assert "ServiceAccount" in refused.value.remedy
    with pytest.raises(RetinaError, match="does not exist"):
        log_in(tmp_path / "nowhere", None)


def test_a_kubeconfig_of_the_environment_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nowhere"))
    with pytest.raises(RetinaError, match="nowhere does not exist"):
        Access.from_settings()


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("import no_such_module", "failed: ModuleNotFoundError: No module named 'no_such_module'"),
        (f"raise RuntimeError('{SECRET}')", "ended with 1: RuntimeError"),
        ("import sys; sys.exit('s3cr3t')", "ended with 1"),
        ("import os; os.kill(os.getpid(), 9)", "was ended by signal 9"),
    ],
)
def test_an_installation_that_is_broken_is_told_in_its_own_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, told: str
) -> None:
    (tmp_path / "kubernetes").mkdir()
    (tmp_path / "kubernetes/__init__.py").write_text(fault)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(RetinaError) as refused:
        log_in(kubeconfig(tmp_path, {"token": SECRET}), None)
    assert refused.value.message.endswith(f"a child process {told}")


def test_an_interpreter_that_does_not_find_us_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = tmp_path / "python"
    bare.write_text('#!/bin/sh\necho "$0: No module named $3" >&2\nexit 1\n')
    bare.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(bare))
    with pytest.raises(RetinaError, match="did not start: No module named"):
        log_in(kubeconfig(tmp_path, {}), None)
