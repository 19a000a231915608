"""Instances that are containers of one Docker engine, near or far.

An image's own rules hold inside: no capability is dropped and `sudo` works, since many build images need it.
What the engine's socket can do is the provider's trust: give it an engine of its own.
"""
