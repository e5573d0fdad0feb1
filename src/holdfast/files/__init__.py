"""Facet: copies of directory trees, verified, repaired and proven."""
