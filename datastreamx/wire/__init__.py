"""Bytes on the topics: one module per topic, each with the only encoder and decoder of its format."""
