"""Defects put back on purpose: the tests must notice each."""
