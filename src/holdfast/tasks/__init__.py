"""Durable long work: journal, runner, progress, cancel, exclusivity and events."""
