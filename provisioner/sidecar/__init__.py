"""One process: start, loops, drain."""
