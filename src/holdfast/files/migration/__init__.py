"""Moves an instance, all directories of a database, from another host while it still runs."""
