"""Viewing once more: objects, dictionaries and a heap of tuples. What the compiled state machine is measured against."""
