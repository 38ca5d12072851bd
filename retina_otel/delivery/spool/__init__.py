"""Requests that wait on the disk, and survive the process."""
