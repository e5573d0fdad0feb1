"""The simulated world, shipped so that users can test against the same ports."""
