"""The dataflows; each `build()` is a table of contents that fits one screen."""
