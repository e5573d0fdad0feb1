"""A directory tree of another host, behind the ReadableDirectory port."""
