"""Random numbers that follow from a seed and a name alone.

`random.Random` keeps 2.5 kB of state; 300,000 boxes would need 750 MB. SplitMix64 (Steele, Lea, Flood: "Fast splittable
pseudorandom number generators", OOPSLA 2014) keeps 8 bytes, and its finaliser alone is a good hash of small integers.
"""

from __future__ import annotations

from hashlib import blake2b

MASK64 = 0xFFFF_FFFF_FFFF_FFFF
GAMMA = 0x9E37_79B9_7F4A_7C15
"""Step of the generator: a state plus `GAMMA` is the next state."""
UNIT = 2.0**-53


def mix(state: int) -> int:
    """Finaliser of SplitMix64: 64 well mixed bits of `state`, which may be any non-negative integer."""
    z = state & MASK64
    z = ((z ^ (z >> 30)) * 0xBF58_476D_1CE4_E5B9) & MASK64
    z = ((z ^ (z >> 27)) * 0x94D0_49BB_1331_11EB) & MASK64
    return z ^ (z >> 31)


def stream_seed(seed: int, name: str) -> int:
    """64-bit seed of an independent stream of draws; another name is another stream."""
    return int.from_bytes(blake2b(f"{seed}\0{name}".encode(), digest_size=8).digest(), "big")


def draw(seed: int, *indices: int) -> int:
    """64 bits that follow from `seed` and `indices`, whatever was drawn before."""
    state = seed
    for index in indices:
        state = mix(state + (index + 1) * GAMMA)
    return state


def unit(bits: int) -> float:
    """Number in [0, 1) from 64 bits."""
    return (bits >> 11) * UNIT


def uniform(seed: int, *indices: int) -> float:
    """Number in [0, 1) that follows from `seed` and `indices`."""
    return unit(draw(seed, *indices))
