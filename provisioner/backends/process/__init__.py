"""Instances that are processes of this machine: for the demo, for tests, for a build host without containers."""
