"""The HTTP face of live migration: Sidecar's routes as they are, and ours beside them."""
