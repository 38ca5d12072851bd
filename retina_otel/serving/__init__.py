"""Serves what is asked of the agent, as scrapes and probes are: to whom, and to how many."""
