"""With what the command ends, documented in the reference of the command line."""

from __future__ import annotations

import errno
from enum import IntEnum

from retina_otel.errors import ConfigError, KernelError, RetinaError


class ExitCode(IntEnum):
    OK = 0
    FAILURE = 1
    USAGE = 2
    CONFIG = 3
    KERNEL = 4
    INTERRUPTED = 130
    TERMINATED = 143


MEANING = {
    ExitCode.OK: "All went well; the agent was asked to stop and did so in time.",
    ExitCode.FAILURE: "Something failed while running, or did not end within the grace.",
    ExitCode.USAGE: "The command line is wrong.",
    ExitCode.CONFIG: "The configuration is invalid, or can't be used here: an unknown key, a port "
    "that is taken, a file that can't be written.",
    ExitCode.KERNEL: "No receiver can run: a privilege or a feature of the kernel is missing, "
    "or a BPF object is.",
    ExitCode.INTERRUPTED: "SIGINT (Ctrl-C) came while the agent was ending already: it ended at "
    "once, and what was not sent yet is lost.",
    ExitCode.TERMINATED: "The same with SIGTERM.",
}

_MISSING = frozenset(
    {errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOENT}
)


def exit_code(error: RetinaError) -> ExitCode:
    if isinstance(error, ConfigError):
        return ExitCode.CONFIG
    if isinstance(error, KernelError) and error.errno in _MISSING:
        return ExitCode.KERNEL
    return ExitCode.FAILURE
