"""Directory trees behind the Directory port."""
