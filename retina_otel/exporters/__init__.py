"""Exporters: each module is one, and knows none of the others."""
