"""Receivers: where counts come from, one module or package a component; none imports another."""
