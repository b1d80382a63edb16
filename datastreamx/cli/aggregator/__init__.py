"""`datastreamx aggregator`: does a partner answer as its dialect says, from here and now."""
