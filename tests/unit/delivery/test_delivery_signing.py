"""Requests are signed as AWS' description of its signature says."""

from __future__ import annotations

import hashlib
import hmac
import socket
from collections.abc import Mapping
from pathlib import Path

import pytest

from retina_otel.delivery.auth import signing_aws
from retina_otel.delivery.auth.authorizer import Authorizer, Request
from retina_otel.delivery.auth.settings import AuthSettings
from retina_otel.errors import RetinaError

KEY, SECRET = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"


def signature(
    target: str, headers: Mapping[str, str], body: bytes, region: str, service: str
) -> str:
    """Signature Version 4 by its description. `target` is method, path and query as they are
    signed; headers are those that are signed, in lower case."""
    canonical = "\n".join(
        [
            *target.split(" "),
            *(f"{name}:{headers[name].strip()}" for name in sorted(headers)),
            "",
            ";".join(sorted(headers)),
            hashlib.sha256(body).hexdigest(),
        ]
    )
    stamp = headers["x-amz-date"]
    scope = f"{stamp[:8]}/{region}/{service}/aws4_request"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    key = f"AWS4{SECRET}".encode()
    for part in (stamp[:8], region, service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}"
    return hmac.digest(key, text.encode(), "sha256").hex()


def test_the_tests_own_signature_is_that_of_the_published_examples() -> None:
    """`get-vanilla` and `post-vanilla` of AWS' test suite for Signature Version 4."""
    headers = {"host": "example.amazonaws.com", "x-amz-date": "20150830T123600Z"}
    expected = {
        "GET": "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
        "POST": "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
    }
    for method, known in expected.items():
        assert signature(f"{method} / ", headers, b"", "us-east-1", "service") == known


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """No credentials but those of the test."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    return monkeypatch


def authorizer(**ways: object) -> Authorizer:
    made = AuthSettings.model_validate(ways).authorizer()
    assert made is not None
    return made


@pytest.mark.parametrize(
    ("url", "host", "target"),
    [
        ("https://aps.example/w/api/v1/remote_write", "aps.example", "/w/api/v1/remote_write "),
        ("http://127.0.0.1:8080/a%20b/c?x=1&a=2", "127.0.0.1:8080", "/a%2520b/c a=2&x=1"),
        ("https://[::1]:443", "[::1]", "/ "),
    ],
)
@pytest.mark.parametrize("token", ["", "a session"])
def test_a_request_is_signed_as_an_independent_signature_says(
    aws: pytest.MonkeyPatch, url: str, host: str, target: str, token: str
) -> None:
    aws.setenv("AWS_ACCESS_KEY_ID", KEY)
    aws.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    if token:
        aws.setenv("AWS_SESSION_TOKEN", token)
    body = b"\x00\x01 snappy"
    sent = {"Content-Type": "application/x-protobuf", "User-Agent": "retina-otel/1"}
    added = authorizer(sigv4={"region": "eu-central-1"}).headers(Request("POST", url, sent, body))
    found = {name.lower(): value for name, value in added.items()}
    expected = {"authorization", "x-amz-date", "x-amz-content-sha256"}
    assert set(found) == expected | ({"x-amz-security-token"} if token else set())
    assert found["x-amz-content-sha256"] == hashlib.sha256(body).hexdigest()
    signed = {
        "host": host,
        "content-type": "application/x-protobuf",
        **{name: value for name, value in found.items() if name.startswith("x-amz-")},
    }
    date = found["x-amz-date"]
    known = signature(f"POST {target}", signed, body, "eu-central-1", "aps")
    assert found["authorization"] == (
        f"AWS4-HMAC-SHA256 Credential={KEY}/{date[:8]}/eu-central-1/aps/aws4_request, "
        f"SignedHeaders={';'.join(sorted(signed))}, Signature={known}"
    )


def test_credentials_may_come_from_a_profile_and_their_lack_is_told(
    aws: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = {"region": "eu-central-1", "profile": "mine"}
    request = Request("POST", "https://x/y", {}, b"")
    signer = authorizer(sigv4=settings)
    with pytest.raises(RetinaError, match=r"auth\.sigv4 has no credentials") as raised:
        signer.headers(request)
    assert "auth.sigv4.profile" in raised.value.remedy
    (tmp_path / "credentials").write_text(
        f"[mine]\naws_access_key_id={KEY}\naws_secret_access_key={SECRET}\n"
    )
    assert f"Credential={KEY}/" in signer.headers(request)["Authorization"]


def test_credentials_that_do_not_come_are_waited_for_a_while_and_it_is_told(
    aws: pytest.MonkeyPatch,
) -> None:
    aws.setattr(signing_aws, "_LONGEST_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/credentials"
        aws.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", url)
        with pytest.raises(RetinaError, match=r"none came within 0\.2 s"):
            authorizer(sigv4={"region": "eu-central-1"}).headers(
                Request("POST", "https://x/y", {}, b"")
            )
