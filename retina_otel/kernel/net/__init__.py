"""Interfaces, namespaces, qdiscs and connections of the kernel, over netlink."""
