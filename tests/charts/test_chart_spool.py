"""The values that the page on events gives: the agent gets a directory of the node for a spool."""

from __future__ import annotations

import subprocess
from pathlib import Path

import yaml

from retina_otel.exporters.otlp_http import OtlpHttpSettings
from retina_otel.testing.cluster.binaries import binary
from tests.docs.pages import ROOT, blocks

PAGE = ROOT / "docs" / "how-to" / "lose-no-events.md"


def test_the_values_of_the_page_mount_the_directory_that_they_configure(tmp_path: Path) -> None:
    (values,) = (block.text for block in blocks(PAGE) if block.title == "values.yaml")
    (tmp_path / "values.yaml").write_text(values)
    chart = ["r", str(ROOT / "charts" / "retina-otel"), "--kube-version", "1.34.4"]
    done = subprocess.run(
        [binary("helm"), "template", *chart, "--values", str(tmp_path / "values.yaml")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    objects = [document for document in yaml.safe_load_all(done.stdout) if document]
    (agent,) = (each for each in objects if each["kind"] == "DaemonSet")
    pod = agent["spec"]["template"]["spec"]
    (volume,) = (each for each in pod["volumes"] if each["name"] == "spool")
    assert volume["hostPath"]["type"] == "DirectoryOrCreate"
    (container,) = pod["containers"]
    mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
    texts = [
        text
        for each in objects
        if each["kind"] == "ConfigMap"
        for text in each["data"].values()
        if "otlp_http" in text
    ]
    (configuration,) = map(yaml.safe_load, texts)
    settings = OtlpHttpSettings.model_validate(configuration["exporters"]["otlp_http"])
    assert settings.spool is not None
    assert mounts["spool"]["mountPath"] == str(settings.spool.directory)
    assert not mounts["spool"].get("readOnly")
