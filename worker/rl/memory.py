"""What the C library does with memory that is freed."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT, _LARGEST = 512 * 2**20, 32 * 2**20


def keep_freed() -> None:
    """Let glibc keep freed blocks for the next tensors instead of handing them back to the system.

    Otherwise every tensor of a megabyte comes as 256 page faults, again and again: a third of a packed update.
    Does nothing where the C library is another one.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, _KEPT)
        mallopt(_M_MMAP_THRESHOLD, _LARGEST)
