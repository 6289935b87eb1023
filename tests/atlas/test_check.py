import os
from pathlib import Path

import fsspec
import pytest
import scipy.sparse as sp

from haystack_kernel.atlas import check_atlas, load_mapping, move_source, open_atlases
from haystack_kernel.errors import InvalidInputError, NotFoundError
from haystack_kernel.schema import CellSet


@pytest.fixture
def source(write, obs):
    return Path(write("a.h5ad", obs))


@pytest.fixture
def atlas(build, source):
    build(str(source), load_mapping("cellxgene", unperturbed=True))
    return "tiny"


def status_of(found, name):
    [one] = [file for file in found["files"] if Path(file["file"]).name.startswith(name)]
    return one


def parts_of(root, kind):
    [path] = (root / "tiny" / f"{kind}.parquet").glob("*.parquet")
    return path


def test_check_of_a_whole_atlas_finds_nothing(atlas, root):
    found = check_atlas(atlas, root)
    assert found["ok"]
    assert [file["status"] for file in found["files"]] == ["ok"] * 4
    assert status_of(found, "a.h5ad")["detail"] == "size and time agree"
    assert status_of(check_atlas(atlas, root, deep=True), "a.h5ad")["detail"] == "digest agrees"


def test_check_when_the_source_moved_then_moving_the_atlas_after_it_is_the_remedy(atlas, root, source):
    source.rename(source.with_name("elsewhere.h5ad"))
    found = check_atlas(atlas, root)
    assert not found["ok"]
    gone = status_of(found, "a.h5ad")
    assert gone["status"] == "missing"
    assert "haystack atlas move tiny NEWPATH --dataset tiny" in gone["remedy"]


def test_check_when_the_source_was_cut_short_then_building_again_is_the_remedy(atlas, root, source):
    source.write_bytes(source.read_bytes()[:-50])
    cut = status_of(check_atlas(atlas, root), "a.h5ad")
    assert cut["status"] == "truncated"
    assert "haystack atlas build FILE --name tiny --dataset tiny --add" in cut["remedy"]


def flip_a_byte(path):
    """Change a byte of the contents, not the size."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def test_check_when_a_byte_changed_then_the_digest_tells(atlas, root, source):
    flip_a_byte(source)
    os.utime(source, (1_000, 1_000))
    assert status_of(check_atlas(atlas, root), "a.h5ad")["status"] == "changed"


def test_check_when_the_time_was_put_back_then_only_the_deep_check_sees_it(atlas, root, source):
    before = source.stat()
    flip_a_byte(source)
    os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert check_atlas(atlas, root)["ok"]
    assert status_of(check_atlas(atlas, root, deep=True), "a.h5ad")["status"] == "changed"


def test_check_when_the_file_was_copied_over_itself_then_it_is_the_same(atlas, root, source):
    source.write_bytes(source.read_bytes())
    os.utime(source, (1_000, 1_000))
    assert status_of(check_atlas(atlas, root), "a.h5ad")["detail"] == "digest agrees"


@pytest.mark.parametrize("kind", ["cells", "groups"])
def test_check_when_the_index_is_damaged_then_the_part_is_named(atlas, root, kind):
    flip_a_byte(parts_of(root, kind))
    found = check_atlas(atlas, root)
    assert [file["status"] for file in found["files"] if file["status"] != "ok"] == ["damaged"]
    assert status_of(found, parts_of(root, kind).name)["dataset"] == "tiny"
    parts_of(root, kind).unlink()
    assert "missing" in {file["status"] for file in check_atlas(atlas, root)["files"]}


def test_move_points_the_atlas_at_the_same_file_elsewhere(atlas, root, source, tmp_path):
    (tmp_path / "new place").mkdir()
    moved = source.rename(tmp_path / "new place" / "b.h5ad")
    before = check_atlas(atlas, root)
    told = move_source(atlas, str(moved), root=root)
    assert told == {"name": "tiny", "datasets": ["tiny"], "source": {"was": str(source), "now": str(moved)}}
    assert not before["ok"]
    assert check_atlas(atlas, root, deep=True)["ok"]
    opened = open_atlases([atlas], root=root)
    cells = opened.select(CellSet(atlas="tiny", dataset="tiny", is_control=True))
    assert opened.fetch(cells).n_obs == 8


def test_move_into_a_bucket_and_back_reads_the_same_cells_and_refuses_others(atlas, root, source):
    files, uri = fsspec.filesystem("memory"), "memory://moved/b.h5ad"
    cell_set = CellSet(atlas="tiny", dataset="tiny", is_control=True)

    def cells():
        opened = open_atlases([atlas], root=root)
        return opened.fetch(opened.select(cell_set)).X.toarray()

    before, data = cells(), source.read_bytes()
    try:
        files.pipe("/moved/b.h5ad", data[:-1] + bytes([data[-1] ^ 1]))  # as many bytes, and not the same
        with pytest.raises(InvalidInputError, match="is not the file that atlas 'tiny' was built from"):
            move_source(atlas, uri, root=root)
        files.pipe("/moved/b.h5ad", data)
        move_source(atlas, uri, root=root)
        assert check_atlas(atlas, root, deep=True)["ok"]
        assert (cells() == before).all()
        move_source(atlas, str(source), root=root)
        assert check_atlas(atlas, root, deep=True)["ok"]
        assert (cells() == before).all()
    finally:
        files.rm("/moved", recursive=True)


def test_move_to_another_file_is_refused_and_changes_nothing(atlas, root, source, write, obs, counts_of):
    other = write("b.h5ad", obs, counts=sp.csr_matrix(counts_of(8, seed=9)))
    with pytest.raises(InvalidInputError, match=r"b\.h5ad is not the file that atlas 'tiny' was built from"):
        move_source(atlas, other, root=root)
    with pytest.raises(NotFoundError, match="does not exist"):
        move_source(atlas, other + ".gone", root=root)
    assert check_atlas(atlas, root)["ok"]


def test_move_when_the_atlas_has_several_files_then_the_dataset_must_be_named(atlas, root, build, write, obs, source):
    other = Path(write("b.h5ad", {key: values[:4] for key, values in obs.items()}, counts=None))
    build(str(other), load_mapping("cellxgene", unperturbed=True), dataset="second", add=True)
    moved = source.rename(source.with_name("moved.h5ad"))
    with pytest.raises(InvalidInputError, match="name the dataset that has moved with --dataset: second, tiny"):
        move_source(atlas, str(moved), root=root)
    with pytest.raises(NotFoundError, match="no dataset 'third'; it has second, tiny"):
        move_source(atlas, str(moved), root=root, dataset="third")
    assert move_source(atlas, str(moved), root=root, dataset="tiny")["datasets"] == ["tiny"]
    assert check_atlas(atlas, root)["ok"]
