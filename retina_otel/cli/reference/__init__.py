"""Writes what is generated from the code: reference pages, registry, schema files."""
