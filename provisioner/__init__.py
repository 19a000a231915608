"""One fresh agent for every Jenkins build."""

__version__ = "0.1.0"
