"""The values that the page on Azure Monitor tells a reader to use, rendered by the real helm."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import yaml

from retina_otel.testing.cluster.binaries import binary
from tests.docs.pages import ROOT, blocks

PAGE = ROOT / "docs" / "how-to" / "send-to-azure-monitor.md"
CHART = ROOT / "charts" / "retina-otel"


def test_the_chart_makes_of_them_a_configuration_that_the_agent_takes(tmp_path: Path) -> None:
    (block,) = (each for each in blocks(PAGE) if each.title == "azure-values.yaml")
    values = tmp_path / block.title
    values.write_text(block.text)
    done = subprocess.run(
        [binary("helm"), "template", "r", str(CHART), "--kube-version", "1.34.4", "-f", values],
        capture_output=True,
        text=True,
        check=True,
    )
    documents = [document for document in yaml.safe_load_all(done.stdout) if document]
    (agent,) = (each for each in documents if each["kind"] == "DaemonSet")
    (container,) = agent["spec"]["template"]["spec"]["containers"]
    (variable,) = (
        each for each in container["env"] if each["name"].startswith("APPLICATIONINSIGHTS")
    )
    assert variable["valueFrom"]["secretKeyRef"]["name"] == "application-insights"
    (text,) = (
        text
        for each in documents
        if each["kind"] == "ConfigMap"
        for text in each["data"].values()
        if "azure_monitor" in text
    )
    config = tmp_path / "agent.yaml"
    config.write_text(text)
    pipelines = yaml.safe_load(text)["service"]["pipelines"]
    assert all("azure_monitor" in pipeline["exporters"] for pipeline in pipelines.values())
    checked = subprocess.run(
        [sys.executable, "-m", "retina_otel", "validate", "--config", config],
        env=os.environ | {each["name"]: "127.0.0.1" for each in container["env"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (checked.returncode, checked.stderr) == (0, "")
