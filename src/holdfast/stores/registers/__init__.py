"""Adapters behind the port Register: SQLite for one instance, etcd for several."""
