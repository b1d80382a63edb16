"""`datastreamx demo`: the whole service on this machine, and an audit of what it did."""
