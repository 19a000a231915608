"""Which provider has room: the caps, fair turns, the explanation of every wait. Pure."""
