"""`datastreamx prepare`: the recovery store that a flow needs at its place, before it is started."""
