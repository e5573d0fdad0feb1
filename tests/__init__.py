"""Tests; tests/architecture/test_style.py says what holds for all of them."""
