"""Benchmarks against the programs people use today; run them with `make bench`."""
