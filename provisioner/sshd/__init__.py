"""An SSH server for one agent, for instances that have none: it knows the controller's launcher and nothing else.

It runs inside of instances, with a Python that comes along and asyncssh. Nothing of the rest of the program is
there, so nothing here imports any of it.
"""
