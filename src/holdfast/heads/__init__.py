"""Facet: heads, the small linearizable names of what is current."""
