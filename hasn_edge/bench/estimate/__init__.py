"""How fast a board that is not here could run a network. Never a measurement."""
