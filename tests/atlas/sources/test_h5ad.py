import h5py
import pytest

from haystack_kernel.atlas.sources.h5ad import read_text

TEXTS = ["b", "a", " b ", "", "nan", "c", "a"]


@pytest.mark.parametrize("block_rows", [1, 3, 7, 100])
def test_texts_stored_one_per_row_are_the_same_in_blocks_of_any_size(tmp_path, block_rows):
    with h5py.File(tmp_path / "a.h5", "w") as h5:
        h5.create_group("obs").create_dataset("label", data=TEXTS, dtype=h5py.string_dtype())
        labels = read_text(h5["obs"], "label", block_rows=block_rows)
    assert list(labels) == ["b", "a", "b", "", "", "c", "a"]
    assert sorted(labels.categories) == ["", "a", "b", "c"]
