"""Clients of holdfast's own services."""
