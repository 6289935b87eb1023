"""Words about the cells of a run: which of them are shown, and which have two roles."""

import pandas as pd

from haystack_kernel.report.words import sample_words, shared_cells
from haystack_kernel.schema import Choice, Round, RunConfig

CHOICE = Choice(candidate_keys=(), reason="r")


def used(**cells):
    """The table of cells used: role -> atlas and ids."""
    rows = [(role, atlas, name) for role, (atlas, names) in cells.items() for name in names]
    return pd.DataFrame(rows, columns=["role", "atlas", "cell_id"])


def test_cells_of_two_roles_are_counted_by_what_they_are():
    """The same cell of an atlas or of one file is the same; equal names in two files may be; others are not."""
    atlas = used(query=("kang", ["a/1", "a/2"]), control=("kang", ["a/2", "a/3"]), prompt=("other", ["a/1"]))
    assert shared_cells(atlas, RunConfig()) == ["1 of the 2 query cells are control cells, too"]
    own = used(query=("own", ["c1", "c2"]), control=("own", ["own/control/c2"]), prompt=("own", ["own/prompt/c1"]))
    one_file = RunConfig(query_h5ad="a.h5ad", prompt_h5ad="a.h5ad", atlases=("own",))
    assert shared_cells(own, one_file) == [
        "1 of the 2 query cells are control cells, too",
        "1 of the 2 query cells are prompt cells, too",
    ]
    two_files = one_file.model_copy(update={"query_h5ad": "b.h5ad"})
    assert shared_cells(own, two_files)[0] == (
        "1 of the 2 query cells have names of control cells, and may be the same cells"
    )
    taken = used(query=("own", ["own/control/c2"]), control=("own", ["own/control/c2"]))
    assert shared_cells(taken, RunConfig(prompt_h5ad="a.h5ad", atlases=("own",))) == [
        "1 of the 1 query cells are control cells, too"
    ]
    assert shared_cells(used(query=("kang", ["a/1"]), control=("kang", ["a/2"])), RunConfig()) == []


def test_roles_of_which_a_map_holds_a_part_are_named():
    best = Round(number=1, choice=CHOICE, candidates=(), n_prompt=632, n_control=948, n_query=256)
    assert sample_words({"control": 600, "prompt": 600, "query": 256, "predicted": 256}, best) == (
        "600 of 948 control and 600 of 632 prompt cells"
    )
    assert sample_words({"control": 948, "prompt": 632, "query": 256, "predicted": 256}, best) == ""
    assert sample_words({}, best) == ""
