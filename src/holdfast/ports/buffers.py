"""Bytes, however they are held."""

Buffer = bytes | bytearray | memoryview
