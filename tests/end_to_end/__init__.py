"""The command as a user has it: a process, real trees, exit codes and what it says."""
