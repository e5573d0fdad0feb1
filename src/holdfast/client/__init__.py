"""Typed clients of holdfast's HTTP services, for the command line, other facets and tests."""
