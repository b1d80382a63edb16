"""`datastreamx query`: SQL against the configured dataset."""
