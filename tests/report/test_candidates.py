from haystack_kernel import report
from haystack_kernel.report import CandidateTable
from haystack_kernel.schema import HiddenCells

NASTY = "<script>alert(1)</script>"


def test_table_names_cells_and_folds_the_reason(make_run):
    made = report.candidate_table(make_run("plasma cell")).html()
    assert "plasma cell</th>" in made
    assert "any cell type" not in made
    assert "<summary>the same treatment in other cell types (direct)</summary>" in made
    assert "40 plasma cell cells treated with IFN-beta. Control cells: 30 control cells of the same 2 donors." in made
    assert "Relevance 0.50, diversity 1.00, quality 0.00. Key: atlas/dataset/IFN-beta/CL:0000236" in made


def test_table_escapes_every_text_of_the_record(make_run):
    table = report.candidate_table(make_run(NASTY))
    assert NASTY not in table.html()
    assert NASTY not in table._repr_html_()
    assert "--jp-" in table._repr_html_()  # follows the theme of the notebook


def test_table_as_text_has_a_few_lines_per_candidate(make_run):
    table = report.candidate_table(make_run("plasma cell"))
    lines = repr(table).splitlines()
    assert lines[0].startswith("1. plasma cell, IFN-beta, ")
    assert lines[0].endswith("40 cells, score 0.62 (the same treatment in other cell types (direct))")
    assert lines[1:3] == [
        "   40 plasma cell cells treated with IFN-beta.",
        "   Control cells: 30 control cells of the same 2 donors.",
    ]
    assert lines[3].startswith("   Key: ")


def test_table_as_a_frame_has_one_row_per_candidate_with_the_rounds_that_used_it(make_run):
    record = make_run()
    table = CandidateTable(record.candidates, record.rounds)
    frame = table.to_frame()
    assert list(frame["key"]) == [one.key for one in table] == [table[i].key for i in range(len(table))]
    assert frame["score"][0] == 0.625
    used = [str(past.number) for past in record.rounds if frame["key"][0] in past.choice.candidate_keys]
    assert frame["rounds"][0] == " ".join(used) != ""


def test_table_says_pinned_where_the_user_did(make_run):
    pinned = make_run().candidates[0].model_copy(update={"pinned": True})
    assert "pinned by you; the same treatment in other cell types" in repr(CandidateTable([pinned]))


def test_empty_table_says_so(failed_run):
    table = report.candidate_table(failed_run.model_copy(update={"candidates": ()}))
    assert "No prompt candidates" in repr(table)
    assert "No prompt candidates" in table._repr_html_()
    assert table.to_frame().empty


def test_table_lists_what_was_hidden_and_the_pairs_that_hid_nothing(make_run):
    pair = "B cell : STAT1 knock-out"
    hidden = (
        HiddenCells(atlas="a", dataset="d", perturbation="sgSTAT1_2", cell_type=NASTY, n_cells=1200, pair=pair),
        HiddenCells(atlas="a", dataset="d", perturbation="multiple", cell_type="CD45+", n_cells=30, pair=pair),
        HiddenCells(atlas="", dataset="", perturbation="", cell_type="", n_cells=0, pair="T cell : IL-2"),
    )
    table = report.candidate_table(make_run().model_copy(update={"hidden": hidden}))
    assert "Hidden from the search: 1,230 cells by B cell : STAT1 knock-out; no cell by T cell : IL-2" in repr(table)
    assert "30 cells: CD45+, multiple, a / d (by B cell : STAT1 knock-out)" in repr(table)
    assert "sgSTAT1_2</td>" in table.html()
    assert NASTY not in table.html()
    assert "Hidden" not in repr(report.candidate_table(make_run()))
