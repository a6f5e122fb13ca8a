"""How fast: systems against the machine's limits and against other people's code."""
