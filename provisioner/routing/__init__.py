"""Which templates serve a label expression: the expressions, the matching, the reasons. Pure."""
