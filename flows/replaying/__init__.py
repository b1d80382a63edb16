"""The parts of a replay: what is to be done, what is left undone, how far it is."""
