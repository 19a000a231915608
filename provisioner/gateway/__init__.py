"""The `ssh-gateway` transport: an SSH server that Jenkins dials, in a process of its own that outlives the sidecar.

It carries what Jenkins' SSH launcher sends to the streams of an instance's agent, and knows nothing else: no
command reaches a shell, and no path a file system.
"""
