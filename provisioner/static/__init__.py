"""Clean static nodes as a provider: one is reserved for a request, serves it, and goes back to be cleaned."""
