"""Loans of static nodes: look at all controllers → decide → one act for each loan; all state is in the controllers."""
