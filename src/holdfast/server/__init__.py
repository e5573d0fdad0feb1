"""Composition roots: where adapters and services are put together."""
