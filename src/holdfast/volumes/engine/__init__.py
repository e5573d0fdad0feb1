"""The engine of a volume: a log first, extents behind it, one owner, no threads inside."""
