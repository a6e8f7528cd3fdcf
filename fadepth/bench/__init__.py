"""How fast parts of a training are on this machine."""
