"""Requests and agents: the planner writes intents, one reconciler per agent closes the gap, sweeps clear the rest."""
