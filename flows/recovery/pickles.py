"""Values as Bytewax pickles them, read without pickle: a pickle is a program, and a damaged one may do anything."""

from __future__ import annotations

import pickle
import pickletools

_PROTOCOL = 4
"""What Bytewax 0.21.1 on Python 3.11 writes. Bytewax takes the default of the interpreter."""

_HARMLESS = {"PROTO", "FRAME", "NONE", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "MEMOIZE", "STOP"}


def read_pickle(data: bytes) -> bytes | None:
    """The bytes or the `None` of which `data` is the pickle; nothing is executed.

    Raises:
        ValueError: It is the pickle of anything else, or not exactly what pickling the value gives.
    """
    value: bytes | None = None
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name not in _HARMLESS:
            raise ValueError(f"a pickle with {opcode.name}, where only bytes and None are expected")
        if isinstance(argument, bytes):
            value = argument
    if write_pickle(value) != data:
        raise ValueError("a pickle of bytes that is not written as Bytewax writes it")
    return value


def write_pickle(value: bytes | None) -> bytes:
    """Invert `read_pickle`."""
    return pickle.dumps(value, protocol=_PROTOCOL)
