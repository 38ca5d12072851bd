"""Attributes that a pipeline chooses and nothing has: warned about, with the nearest one."""

from __future__ import annotations

import pytest

from retina_otel.component import ComponentKind
from retina_otel.config.choices import unmatched
from retina_otel.config.registry import Registry
from retina_otel.config.settings import PipelineSettings


def warnings(attributes: dict[str, list[str]], pipeline: str = "metrics") -> list[str]:
    receiver = Registry.installed().load(ComponentKind.RECEIVER, "drops")
    settings = PipelineSettings(receivers=["drops"], exporters=["x"], attributes=attributes)
    return list(unmatched(pipeline, settings, [receiver], []))


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"*": ["default"]},
        {"retina.drop.*": ["source.k8s.pod.name", "destination.*", "network.*"]},
        {"retina.drop.packets": ["source.k8s.pod.label.app", "network.transport"]},
        {"retina.drop.io": []},
    ],
)
def test_what_a_signal_has_is_no_warning(attributes: dict[str, list[str]]) -> None:
    assert warnings(attributes) == []


def test_a_name_that_no_signal_has_is_a_warning() -> None:
    assert warnings({"retina.drop.packet": ["default"], "x": ["default"]}) == [
        "service.pipelines.metrics.attributes.retina.drop.packet: no metric of this pipeline is "
        "called so. Did you mean 'retina.drop.packets'?",
        "service.pipelines.metrics.attributes.x: no metric of this pipeline is called so",
    ]
    assert warnings({"retina.drops": ["default"]}, "logs/drops") == [
        "service.pipelines.logs/drops.attributes.retina.drops: no event of this pipeline is "
        "called so. Did you mean 'retina.drop'?"
    ]


def test_an_attribute_that_nothing_has_is_a_warning() -> None:
    assert warnings({"retina.drop.packets": ["k8s.pod.name", "default"]}) == [
        "service.pipelines.metrics.attributes.retina.drop.packets: nothing has the attribute "
        "'k8s.pod.name'. Did you mean 'source.k8s.pod.name'?"
    ]


def test_nothing_is_said_where_a_receiver_declares_nothing() -> None:
    identity = Registry.installed().load(ComponentKind.PROCESSOR, "identity")
    settings = PipelineSettings(receivers=["i"], exporters=["x"], attributes={"x": ["y"]})
    assert list(unmatched("metrics", settings, [identity], [])) == []
