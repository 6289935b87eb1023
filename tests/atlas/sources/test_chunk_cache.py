"""What is kept, what goes first, and what happens to damage."""

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from haystack_kernel.atlas.sources.chunk_cache import ChunkCache


@pytest.fixture
def cache(tmp_path):
    return ChunkCache(tmp_path / "cells", limit_bytes=1000)


def entries(*names, size=300):
    return {name: name.encode() * size for name in names}  # one-letter names: size bytes each


def test_what_was_put_is_got_in_any_number(cache):
    many = {f"key{number}": bytes([number % 256]) for number in range(700)}
    cache.put(many)
    assert cache.get([*many, "other"]) == many
    assert cache.n_bytes() == 700


def test_nothing_put_is_nothing_got_and_makes_no_file(cache, tmp_path):
    assert cache.get(["a"]) == {}
    assert cache.get([]) == {}
    cache.put({})
    assert cache.n_bytes() == 0
    assert not (tmp_path / "cells").exists()


def test_the_least_recently_used_goes_first(cache):
    cache.put(entries("a", "b"))
    cache.put(entries("c"))
    assert set(cache.get(["a"])) == {"a"}  # now the newest
    cache.put(entries("d"))
    assert set(cache.get("abcd")) == {"a", "c", "d"}
    assert cache.n_bytes() <= 1000


def test_the_limit_holds_however_much_is_put(cache):
    for number in range(30):
        cache.put({f"{number}/{part}": bytes(90) for part in range(4)})
        assert cache.n_bytes() <= 1000


def test_an_entry_above_the_limit_and_a_limit_of_zero_keep_nothing(cache, tmp_path):
    cache.put({"a": bytes(1001)})
    assert cache.get(["a"]) == {}
    ChunkCache(tmp_path / "none", limit_bytes=0).put(entries("a"))
    assert not (tmp_path / "none").exists()


def test_putting_again_replaces(cache):
    cache.put({"a": b"old"})
    cache.put({"a": b"newer"})
    assert cache.get(["a"]) == {"a": b"newer"}
    assert cache.n_bytes() == 5


def test_a_damaged_entry_is_dropped_and_the_others_stay(cache, tmp_path):
    cache.put(entries("a", "b"))
    with sqlite3.connect(tmp_path / "cells" / "chunks.sqlite") as connection:
        number = connection.execute("SELECT id FROM chunks WHERE key = 'a'").fetchone()[0]
        connection.execute("UPDATE content SET data = ? WHERE id = ?", (b"x" * 300, number))
    connection.close()
    assert cache.get("ab") == entries("b")
    assert cache.n_bytes() == 300


@pytest.mark.parametrize("damage", ["text", "middle"])
def test_a_damaged_file_is_dropped_and_begun_anew(cache, tmp_path, damage):
    path = tmp_path / "cells" / "chunks.sqlite"
    cache.put(entries("a", "b"))
    data = path.read_bytes()
    path.write_bytes(b"no database" * 100 if damage == "text" else data[:100] + b"\xff" * (len(data) - 100))
    assert cache.get("ab") == {}
    cache.put(entries("c"))
    assert cache.get("abc") == entries("c")


def test_a_folder_that_cannot_be_made_keeps_nothing(tmp_path):
    (tmp_path / "file").write_text("in the way")
    cache = ChunkCache(tmp_path / "file" / "cells", limit_bytes=1000)
    cache.put(entries("a"))
    assert cache.get(["a"]) == {}


def test_processes_share_it(cache, tmp_path):
    """Four processes put and get at once; each entry is whole or absent, and the limit holds."""
    code = """
import sys
from pathlib import Path
from haystack_kernel.atlas.sources.chunk_cache import ChunkCache
cache, me = ChunkCache(Path(sys.argv[1]), limit_bytes=5000), sys.argv[2]
for number in range(40):
    cache.put({f"{me}/{number}": me.encode() * 100, f"shared/{number}": b"s" * 100})
    for key, data in cache.get([f"{me}/{number}", f"shared/{number}", f"shared/{number - 1}"]).items():
        assert data == (b"s" if key.startswith("shared") else me.encode()) * 100, key
"""
    root = Path(__file__).parents[3]
    command = [sys.executable, "-c", code, str(tmp_path / "cells")]
    running = [subprocess.Popen([*command, me], cwd=root, stderr=subprocess.PIPE) for me in "wxyz"]
    for process in running:
        _, told = process.communicate(timeout=600)
        assert process.returncode == 0, told.decode()
    assert 0 < ChunkCache(tmp_path / "cells", limit_bytes=5000).n_bytes() <= 5000
