"""A cluster to try things on: started with the sample workloads, ended by Ctrl-C.

python -m retina_otel.testing.cluster [--nodes N] [--empty]
"""

from __future__ import annotations

import argparse
import signal
import sys
import time

from retina_otel.errors import RetinaError
from retina_otel.testing.cluster.binaries import folder
from retina_otel.testing.cluster.cluster import WORKLOADS, Cluster


def main() -> int:
    """Runs until SIGINT or SIGTERM. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="make lab")
    parser.add_argument("--nodes", type=int, default=1, help="how many nodes (1)")
    parser.add_argument("--empty", action="store_true", help="without the sample workloads")
    arguments = parser.parse_args()
    # A shell that starts us in the background has SIGINT ignored.
    for end in (signal.SIGINT, signal.SIGTERM):
        signal.signal(end, signal.default_int_handler)
    started = time.monotonic()
    try:
        with Cluster(arguments.nodes) as cluster:
            if not arguments.empty:
                cluster.apply(WORKLOADS)
                cluster.wait_for_rollout("deployment/web", "shop")
                cluster.wait_for_rollout("deployment/client", "shop")
            print(f"ready in {time.monotonic() - started:.1f} s\n")
            print(cluster.kubectl("get", "pods", "--all-namespaces", "-o", "wide").stdout)
            node = " ".join(cluster.node.enter([]))
            print(f"export KUBECONFIG={cluster.kubeconfig} PATH={folder()}/bin:$PATH")
            print(f"a shell on node-1:  {node} bash")
            print("Ctrl-C ends it.", flush=True)
            signal.pause()
    except KeyboardInterrupt:
        pass
    except RetinaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
