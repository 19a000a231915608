"""A Jenkins controller without Jenkins: the same endpoints, queue, nodes and agents, for tests and the demo."""
