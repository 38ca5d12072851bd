"""Snapshots and events to bytes: OTLP (protobuf, JSON), Prometheus text. No sockets, no clock.

What an encoder keeps between calls is only bytes of attribute sets, by id; an encoder belongs to
one thread at a time.
"""
