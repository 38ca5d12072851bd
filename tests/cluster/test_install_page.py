"""docs/how-to/install-with-helm.md, followed command by command on a real cluster."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from retina_otel.testing.cluster import Cluster
from retina_otel.testing.cluster.binaries import binary
from tests.docs.pages import ROOT, blocks, commands

PAGE = ROOT / "docs" / "how-to" / "install-with-helm.md"


@pytest.mark.timeout(900)  # the first time an image is built from nothing
def test_a_reader_who_follows_the_page_succeeds(tmp_path: Path) -> None:
    for entry in ROOT.iterdir():
        (tmp_path / entry.name).symlink_to(entry)
    with Cluster() as cluster:
        environment = os.environ | {
            "KUBECONFIG": str(cluster.kubeconfig),
            "PATH": f"{Path(binary('helm')).parent}:{os.environ['PATH']}",
        }
        printed = ""
        for block in blocks(PAGE):
            if block.title:
                (tmp_path / block.title).write_text(block.text)
            for command in commands(block.text) if block.language == "sh" else ():
                if command.startswith("helm install"):
                    # The page leaves it to the reader how the image comes to the nodes.
                    cluster.import_image(Path(printed.rsplit(maxsplit=1)[-1]))
                done = subprocess.run(
                    ["bash", "-c", command],
                    cwd=tmp_path,
                    env=environment,
                    capture_output=True,
                    text=True,
                    timeout=800,
                )
                assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
                printed = done.stdout
        everything = ["get", "all,clusterroles,clusterrolebindings", "-A", "-o", "name"]
        # Helm does not wait for the last pod to end.
        cluster.wait_for(
            lambda: "retina-otel" not in cluster.kubectl(*everything).stdout, what="nothing left"
        )
