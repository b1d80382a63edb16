"""Viewing once more: objects, dictionaries and a heap of tuples; what the compiled machine is measured against."""
