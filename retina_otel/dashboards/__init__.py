"""What to look at and when to be told: a Grafana dashboard and Prometheus alert rules.

Both are made from the signals, so that a query names what an agent reports.
"""
