"""`datastreamx explain`: why a box was shown this ad."""
