"""Compiles a C text with BCC, passes the descriptors to its parent, and exits.

Runs under the distribution's Python, which may be another one than ours: the standard library and
bcc, and nothing of this package. Arguments: the descriptor of a SOCK_SEQPACKET socket, and a JSON
object {"text", "programs": {name: type}, "flags": [...]}. Answers with one JSON object.
"""

import json
import os
import socket
import sys

NO_BCC = 3
AUTOMATIC = {
    "raw_tracepoint__": "RAW_TRACEPOINT",
    "tracepoint__": "TRACEPOINT",
    "kprobe__": "KPROBE",
    "kretprobe__": "KPROBE",
}


def main() -> int:
    try:
        from bcc import BPF, lib
    except ImportError:
        return NO_BCC
    channel = socket.socket(fileno=int(sys.argv[1]))
    job = json.loads(sys.argv[2])
    # Tracepoint texts are attached by BCC as soon as it knows them: the parent decides on that.
    BPF._trace_autoload = lambda self: None
    try:
        bpf = BPF(text=job["text"], cflags=job["flags"])
        count = lib.bpf_num_functions(bpf.module)
        names = [lib.bpf_function_name(bpf.module, at).decode() for at in range(count)]
        programs = {}
        for name in names:
            kind = job["programs"].get(name) or automatic(name)
            if kind is None:
                raise ValueError(f"the type of program {name} was not given")
            programs[name] = bpf.load_func(name.encode(), getattr(BPF, kind)).fd
        missing = sorted(set(job["programs"]) - set(names))
        if missing:
            raise ValueError(f"the text has no program {missing[0]}")
        maps = {}
        # bcc leaves this function undeclared; it has the signature of the one for programs.
        lib.bpf_table_name.restype = lib.bpf_function_name.restype
        lib.bpf_table_name.argtypes = lib.bpf_function_name.argtypes
        for at in range(lib.bpf_num_tables(bpf.module)):
            name = lib.bpf_table_name(bpf.module, at)
            maps[name.decode()] = lib.bpf_table_fd(bpf.module, name)
    except Exception as error:
        channel.send(json.dumps({"error": str(error) or type(error).__name__}).encode())
        return 1
    answer = json.dumps({"maps": list(maps), "programs": list(programs)}).encode()
    socket.send_fds(channel, [answer], [*maps.values(), *programs.values()])
    return 0


def automatic(name: str) -> "str | None":
    """The type that BCC's own macros write into a program's name."""
    for prefix, kind in AUTOMATIC.items():
        if name.startswith(prefix):
            return kind
    return None


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    # LLVM's own shutting down takes longer than all the rest.
    os._exit(status)
