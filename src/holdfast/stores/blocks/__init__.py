"""Adapters of the port BlockFile."""
