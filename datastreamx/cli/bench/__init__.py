"""`datastreamx bench`: what this machine does, and how many boxes it carries."""
