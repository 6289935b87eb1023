"""The peak memory that a result states is that of its own process."""

import subprocess
import sys

import pytest

from inference.memory import peak_memory_gib


@pytest.mark.slow
def test_peak_memory_is_not_that_of_the_process_that_started_it():
    held = bytearray(b"x") * 400_000_000
    code = "from inference.memory import peak_memory_gib; print(peak_memory_gib())"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert 0 < float(said) < 0.1 < len(held) / 2**30 < peak_memory_gib()
