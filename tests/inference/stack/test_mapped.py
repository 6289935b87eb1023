"""Memory of mapped weights is given back, and they stay readable."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from inference.stack.mapped import release_pages

N_NUMBERS = 4_000_000


def _resident_pages(address):
    """KiB in memory of the mapping that holds an address."""
    is_inside = False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        head = line.split()[0]
        if "-" in head and not head.endswith(":"):
            low, high = (int(part, 16) for part in head.split("-"))
            is_inside = low <= address < high
        elif is_inside and head == "Rss:":
            return int(line.split()[1])
    return None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what is in memory")
def test_pages_of_a_file_are_given_back_and_read_again(tmp_path):
    path = tmp_path / "weights.pt"
    torch.save({"one": torch.arange(N_NUMBERS, dtype=torch.float32)}, path)
    tensor = torch.load(path, mmap=True)["one"]
    assert tensor.sum() > 0
    assert _resident_pages(tensor.data_ptr()) > 3 * N_NUMBERS / 1024
    release_pages(tensor)
    assert _resident_pages(tensor.data_ptr()) < N_NUMBERS / 1024
    assert torch.equal(tensor, torch.arange(N_NUMBERS, dtype=torch.float32))


@pytest.mark.parametrize("size", [1, 1000, N_NUMBERS])
def test_other_memory_keeps_what_it_holds(size):
    tensor = torch.arange(size, dtype=torch.float32)
    release_pages(tensor)
    assert torch.equal(tensor, torch.arange(size, dtype=torch.float32))
