"""A receiver that counts from a list, and an exporter that writes a line a point."""
