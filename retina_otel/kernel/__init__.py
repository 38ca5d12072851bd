"""The only code that speaks to the kernel: bpf(2), libbpf, BTF, maps, rings, links, netlink.

Imports nothing of ours but `errors` and `model.{interfaces,namespaces}`; nothing else imports
ctypes or mmap.
"""
