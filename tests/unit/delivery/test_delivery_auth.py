"""Tokens and passwords from files: read anew when they change, never shown."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from retina_otel.delivery.auth.authorizer import Authorizer, Request
from retina_otel.delivery.auth.settings import AuthSettings
from retina_otel.errors import ConfigError

REQUEST = Request("POST", "http://c:4318/v1/metrics", {}, b"")


def sent(authorizer: Authorizer | None) -> dict[str, str]:
    assert authorizer is not None
    return authorizer.headers(REQUEST)


def bearer(path: Path) -> Authorizer | None:
    return AuthSettings.model_validate({"bearer": {"token_file": str(path)}}).authorizer()


def test_a_token_is_sent_without_the_end_of_its_line(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("hunter2\n")
    assert sent(bearer(path)) == {"Authorization": "Bearer hunter2"}


def test_a_token_that_is_replaced_is_sent_from_the_next_request_on(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("first")
    authorizer = bearer(path)
    assert sent(authorizer) == {"Authorization": "Bearer first"}
    (tmp_path / "new").write_text("other")
    (tmp_path / "new").replace(path)
    assert sent(authorizer) == {"Authorization": "Bearer other"}


def test_a_token_behind_a_link_that_is_swapped_is_the_new_one(tmp_path: Path) -> None:
    """As the volumes of Kubernetes do it."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "token").write_text(name)
    (tmp_path / "data").symlink_to("one")
    authorizer = bearer(tmp_path / "data" / "token")
    assert sent(authorizer) == {"Authorization": "Bearer one"}
    (tmp_path / "next").symlink_to("two")
    (tmp_path / "next").replace(tmp_path / "data")
    assert sent(authorizer) == {"Authorization": "Bearer two"}


def test_after_a_refusal_a_token_is_read_even_if_its_file_looks_the_same(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("aaaa")
    before = path.stat()
    authorizer = bearer(path)
    assert authorizer is not None
    path.write_text("bbbb")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert sent(authorizer) == {"Authorization": "Bearer aaaa"}
    authorizer.refused()
    assert sent(authorizer) == {"Authorization": "Bearer bbbb"}


def test_a_token_that_goes_and_comes_back_is_an_error_only_in_between(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("first")
    authorizer = bearer(path)
    path.unlink()
    for _ in range(2):
        with pytest.raises(ConfigError, match="can't be read"):
            sent(authorizer)
    path.write_text("second")
    assert sent(authorizer) == {"Authorization": "Bearer second"}


def test_a_token_of_other_letters_than_headers_have_is_an_error_until_it_is_replaced(
    tmp_path: Path,
) -> None:
    path = tmp_path / "token"
    path.write_text("hunter\u20ac")
    authorizer = bearer(path)
    with pytest.raises(ConfigError, match=r"auth\.bearer\.token_file") as error:
        sent(authorizer)
    assert "hunter" not in str(error.value)
    path.write_text("plain")
    assert sent(authorizer) == {"Authorization": "Bearer plain"}


def test_user_and_password_are_sent_as_basic(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text("correct horse\n")
    settings = AuthSettings.model_validate(
        {"basic": {"username": "agent", "password_file": str(path)}}
    )
    scheme, _, pair = sent(settings.authorizer())["Authorization"].partition(" ")
    assert (scheme, base64.b64decode(pair)) == ("Basic", b"agent:correct horse")


@pytest.mark.parametrize(
    "content", [b"", b" \n", b"hunter2\nhunter3", b"\xffhunter2", b"x" * 70_000]
)
def test_what_is_no_line_of_text_is_refused_and_not_shown(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "token"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="does not hold one line of text") as error:
        bearer(path)
    assert "hunter" not in str(error.value)
    assert "auth.bearer.token_file" in str(error.value)


def test_only_one_way_may_be_given_and_none_proves_nothing() -> None:
    with pytest.raises(ValidationError, match="keep one of basic, bearer"):
        AuthSettings.model_validate(
            {"bearer": {"token_file": "t"}, "basic": {"username": "u", "password_file": "p"}}
        )
    assert AuthSettings().authorizer() is None


def test_a_user_name_with_a_colon_is_refused() -> None:
    """The backend could not tell it from the password."""
    with pytest.raises(ValidationError):
        AuthSettings.model_validate({"basic": {"username": "a:b", "password_file": "p"}})
