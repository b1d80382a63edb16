"""`datastreamx rescale`: the same state for another number of cells."""
