"""Prefixed, unguessable, time-ordered ids: 52 bits of microseconds and 78 random bits in Crockford base 32."""

import secrets
import threading
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_lock = threading.Lock()
_last = 0


def new_id(prefix: str) -> str:
    """``prefix_`` and 26 characters. Ids made by one process sort in the order they were made."""
    global _last
    with _lock:
        _last = max(_last + 1, time.time_ns() // 1000)
        number = (_last << 78) | secrets.randbits(78)
    return f"{prefix}_" + "".join(_ALPHABET[(number >> shift) & 31] for shift in range(125, -1, -5))
