"""Frozen values every part shares. No input or output, no clock, no chance."""
