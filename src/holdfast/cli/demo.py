"""`holdfast demo`: the whole story on a real tree of this machine, in a scratch directory."""


def demo() -> None:
    """Show the whole story on a real tree: plan, copy, verify, damage, find, repair, prove."""
