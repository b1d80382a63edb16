"""A VAST ad tag: GET of an address with macros, answered by a VAST document with prices in it."""
