"""The dirty/clean scheduler of long-lived nodes: facts → decision → one act for each node."""
