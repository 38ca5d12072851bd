"""Public tools for testing anything that observes a network: a lab, traffic with exact tallies,
backends.

`lab` builds a node with pods out of network namespaces; `traffic` sends packets and says exactly
how many and how large they were; `packets` builds frames by hand; `servers` answers inside the lab;
`otlp` is a backend that decodes and validates what it receives. All of it is real: a real kernel's
packets on real interfaces. It needs root, and leaves nothing behind, also after a kill.
"""
