"""What tests of several kinds share: running the command, and comparing trees."""
