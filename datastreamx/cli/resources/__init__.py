"""`datastreamx plan` and `datastreamx apply`: topics and tables."""
