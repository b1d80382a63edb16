"""From bytes to events; what cannot be decoded becomes a dead letter."""

from operators.decode.step import DecodeOut, decode

__all__ = ["DecodeOut", "decode"]
