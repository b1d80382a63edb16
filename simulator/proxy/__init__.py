"""A TCP proxy that spoils connections on demand: delay, rate, reset, black hole, half-open.

It stands between the flows and what they talk to, one route for each, and passes bytes on unread.
"""
