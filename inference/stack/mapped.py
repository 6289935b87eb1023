"""Memory of weights that lie in a mapped file.

In: a tensor of which a copy was made. Out: less memory in use; the tensor stays as it is.
"""

from __future__ import annotations

import ctypes
import mmap
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_MAPS = Path("/proc/self/maps")  # Linux alone has it
_DONT_NEED = 4  # of madvise; pages of a file are read again at their next use


def release_pages(tensor: Tensor) -> None:
    """Give back the memory of a tensor in a mapped file, which is read again where it is used again."""
    first = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE if tensor.device.type == "cpu" else 0
    last = (tensor.data_ptr() + tensor.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if first and first < last and tensor.is_contiguous() and _is_of_file(first, last):
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), _DONT_NEED)


def _is_of_file(first: int, last: int) -> bool:
    """Whether these addresses are a file's; other memory would lose what it holds."""
    if not _MAPS.exists():
        return False
    for line in _MAPS.read_text(encoding="utf-8", errors="replace").splitlines():
        span, _access, _offset, _device, inode, *_ = line.split()
        low, high = (int(part, 16) for part in span.split("-"))
        if low <= first and last <= high:
            return inode != "0"
    return False
