"""Builds pipelines from a configuration and keeps them running: threads, reload, shutdown order.

Threads: one tick thread owns receivers, tables and accumulators; each exporter has its own; the
thread that calls `supervise()` waits for signals. The failure of one component stays its own.
"""
