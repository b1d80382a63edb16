"""`datastreamx forget`: erase what the tables hold about a box, and tell what else there is of it."""
