"""From text to a checked configuration: YAML, environment, overrides, component settings.

Knows nothing of threads or sockets. What leaves it is frozen and complete: every component that a
pipeline names exists, may stand there, and has valid settings.
"""
