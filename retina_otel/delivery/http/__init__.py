"""Requests over HTTP: one pooled connection for a sender, and what answers mean."""
