"""`datastreamx backup` and `datastreamx restore`: copies of the recovery stores."""
