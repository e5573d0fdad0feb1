"""Adapters behind the ports: the world as holdfast meets it."""
