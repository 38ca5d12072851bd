"""Who gets something of the identity service, and who does not: real tokens, a real API server."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
import trustme

from retina_otel.identity_service.client import open_channel, probe
from retina_otel.identity_service.protocol import WATCH, Subscription
from retina_otel.identity_service.server import Limits
from retina_otel.testing.cluster import ControlPlane
from tests.cluster.identity_service_lab import KINDS, Lab, delete_pods, make_pods
from tests.unit.identity_service.identity_parts import eventually


@pytest.fixture
def lab(control_plane: ControlPlane, tmp_path: Path) -> Iterator[Lab]:
    yield Lab(control_plane, tmp_path)
    delete_pods(control_plane)


def forged(token: str) -> str:
    """The same claims under another signature."""
    head, body, signature = token.split(".")
    other = ("A" if signature[0] != "A" else "B") + signature[1:]
    return f"{head}.{body}.{other}"


def expired(token: str) -> str:
    head, body, signature = token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    claims["exp"] = int(time.time()) - 1
    text = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"{head}.{text}.{signature}"


@pytest.mark.parametrize(
    ("token_of", "code", "reason"),
    [
        pytest.param(lambda lab: None, "UNAUTHENTICATED", "no_token", id="no token"),
        pytest.param(lambda lab: "garbage", "UNAUTHENTICATED", "invalid_token", id="no JWT"),
        pytest.param(
            lambda lab: lab.token(audience=""), "UNAUTHENTICATED", "invalid_token", id="audience"
        ),
        pytest.param(
            lambda lab: lab.token("stranger"), "PERMISSION_DENIED", "foreign_account", id="account"
        ),
        pytest.param(
            lambda lab: forged(lab.token()), "UNAUTHENTICATED", "invalid_token", id="signature"
        ),
        pytest.param(
            lambda lab: expired(lab.token()), "UNAUTHENTICATED", "invalid_token", id="expired"
        ),
    ],
)
def test_whoever_is_no_agent_gets_nothing(
    lab: Lab,
    token_of: Callable[[Lab], str | None],
    code: str,
    reason: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    make_pods(lab.plane, ["a"])
    token = token_of(lab)
    with lab.service() as service:
        settings = lab.settings(service)
        metadata = (("authorization", f"Bearer {token}"),) if token else ()
        subscription = Subscription({kind.value: keys for kind, keys in KINDS.items()})
        for _ in range(2):
            with open_channel(settings) as channel:
                call = channel.unary_stream(WATCH)(subscription.serialize(), metadata=metadata)
                frames: list[bytes] = []
                with pytest.raises(grpc.RpcError) as refused:
                    frames.extend(call)
            assert refused.value.code().name == code
            assert frames == []
        assert service.counters.value("refusals_total", reason) == 2
        assert [
            label for family, label in service.counters.labels() if family == "frames_sent_total"
        ] == []
    told = [one.getMessage() for one in caplog.records if "gets nothing" in one.getMessage()]
    assert len(told) == 1
    assert not any(token and token[:20] in line for line in told)


def test_an_agent_with_another_ca_does_not_show_its_token(lab: Lab) -> None:
    other = lab.folder / "other-ca.crt"
    trustme.CA().cert_pem.write_to_path(str(other))
    with lab.service() as service:
        settings = lab.settings(service, ca_file=str(other))
        assert "UNAVAILABLE" in probe(settings)
        # What the service counts of its own watches comes when a batch is due; of agents, nothing.
        of_watches = {("batches_total", ""), ("changed_objects_total", "")}
        assert set(service.counters.labels()) - of_watches == set()


def test_answers_about_a_token_are_kept(lab: Lab) -> None:
    with lab.service() as service:
        settings = lab.settings(service)
        assert [probe(settings) for _ in range(5)] == [""] * 5
        assert service.counters.value("token_reviews_total") == 1


def test_a_stream_ends_when_its_account_is_deleted(lab: Lab) -> None:
    limits = Limits(batch_s=0.02, heartbeat_s=1.0, review_s=0.2)
    with (
        lab.service(limits=limits) as service,
        lab.reading(lab.settings(service)) as told,
    ):
        told.synced()
        lab.plane.core().delete_namespaced_service_account("agent", "default")
        told.wait(lambda: "UNAUTHENTICATED" in told.states[-1].reason)
        assert ("refusals_total", "invalid_token") in service.counters.labels()
        eventually(lambda: service.server.streams == 0)
