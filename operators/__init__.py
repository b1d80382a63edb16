"""Dataflow operators: pure logic in the middle, a thin Bytewax shell (`step.py`) around each."""
