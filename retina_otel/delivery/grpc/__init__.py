"""Requests over gRPC: one channel for a sender, and what the end of a call means."""
