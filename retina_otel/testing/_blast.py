"""One sending process of `traffic.two_cpus`: fd, CPU, count and payload size as arguments.

It imports nothing of the package, so that it starts at once; it sends when it is told to on stdin.
"""

import errno
import os
import sys
import time

fd, cpu, packets, payload = map(int, sys.argv[1:])
os.sched_setaffinity(0, {cpu})
data = bytes(payload)
os.write(1, b"ready\n")
sys.stdin.readline()
for _ in range(packets):
    while True:
        try:
            os.write(fd, data)
            break
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            time.sleep(0.001)
