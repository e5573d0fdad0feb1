"""holdfast moves, replicates and checkpoints stateful data, and proves every copy."""

__version__ = "0.1.0"
