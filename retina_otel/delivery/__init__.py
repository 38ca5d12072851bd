"""Bringing encoded requests to a backend: pacing, retries, splitting, TLS, HTTP, book-keeping.
Backends that come and ask are served by `retina_otel.serving`.

Knows bytes and readers, not encodings: an exporter brings its encoder and its sender together.
Nothing is given up in silence: each point and event ends in exactly one account of the ledger.
"""
