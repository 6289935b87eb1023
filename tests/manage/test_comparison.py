"""Two runs side by side: numbers are those that scipy and pandas give, gene spaces may differ, nothing is hidden."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from haystack_kernel.errors import NotFoundError
from haystack_kernel.manage import compare, fork
from haystack_kernel.schema import Choice, Component, Composite, Round, RunConfig, RunRecord
from haystack_kernel.store import RunStore, write_csv

pytestmark = pytest.mark.slow

A, B = "run-20260102t030405-aaaaaa", "run-20260102t030405-bbbbbb"


def effects(genes, values, called):
    return pd.DataFrame({"gene": genes, "log2fc": values, "is_de": called})


@pytest.fixture
def place(tmp_path, clock, monkeypatch):
    """Write a run whose best round has these effects and pathways."""
    monkeypatch.setenv("HAYSTACK_STORAGE", str(tmp_path / "store"))
    store = RunStore(str(tmp_path / "store"))

    def write(run_id, de=None, *, score=5.0, pathways=(), **changes):
        parts = (Component(name="pathway", weight=0.25, score=score), Component(name="target", weight=0.3, score=2.0))
        scored = Round(number=1, choice=Choice(candidate_keys=(), reason=""), candidates=(), components=parts)
        scored = scored.model_copy(update={"composite": Composite(value=score, weight_computed=1)})
        record = RunRecord(
            run_id=run_id,
            question=changes.pop("question", "How would B cells respond to IFN-beta?"),
            config=RunConfig(**changes),
            created_at=clock.now(),
            rounds=(scored,) if de is not None else (),
            best_round=1 if de is not None else None,
        )
        store.create(record)
        if de is not None:
            write_csv(store, run_id, "rounds/1/de.csv", de)
            table = pd.DataFrame(pathways, columns=["pathway", "score"])
            write_csv(store, run_id, "rounds/1/pathways.csv", table)
        return record

    return write


def test_effects_are_compared_on_the_shared_genes_alone(place):
    rng = np.random.default_rng(5)
    genes = [f"G{i}" for i in range(60)]
    x = rng.normal(size=60)
    y = 0.5 * x + rng.normal(size=60)
    place(A, effects(genes[:50], x[:50], np.abs(x[:50]) > 1))
    place(B, effects(genes[10:], y[10:], np.abs(y[10:]) > 1), seed=3)
    found = compare(A, B)
    one, other = x[10:50], y[10:50]
    assert (found.n_shared, found.n_genes, found.reason) == (40, (50, 50), "")
    assert found.pearson == pytest.approx(stats.pearsonr(one, other).statistic, abs=1e-7)
    assert found.spearman == pytest.approx(stats.spearmanr(one, other).statistic, abs=1e-7)
    called = (np.abs(one) > 1, np.abs(other) > 1)
    assert found.counts == {
        "de_both": int((called[0] & called[1]).sum()),
        "sign_flips": int((called[0] & called[1] & (one * other < 0)).sum()),
        "de_only_a": int((called[0] & ~called[1]).sum()),
        "de_only_b": int((called[1] & ~called[0]).sum()),
    }
    assert found.counts["de_both"] > 0
    assert "40 shared genes (of 50 and 50)" in repr(found)


def test_a_gene_that_is_called_with_opposite_signs_is_named(place):
    genes = [f"G{i}" for i in range(12)]
    up = np.linspace(0.1, 1.2, 12)
    down = up.copy()
    down[[3, 11]] *= -1
    called = np.arange(12) >= 10
    place(A, effects(genes, up, called))
    place(B, effects(genes, down, called), seed=3)
    told = compare(A, B).to_dict()
    assert told["flipped_genes"] == ["G11"]
    assert told["shared_genes"] == ["G11", "G10"]  # the largest effect first


def test_what_differs_is_told_and_what_is_equal_is_not(place):
    genes = [f"G{i}" for i in range(12)]
    place(A, effects(genes, np.arange(12.0), [False] * 12), score=5, pathways=[("P1", 4.0), ("P2", 2.0)])
    place(B, effects(genes, np.arange(12.0), [False] * 12), score=6.5, seed=3, pathways=[("P2", 9.0), ("P3", 1.0)])
    found = compare(A, B)
    assert list(found.differences) == [{"what": "seed", "a": 0, "b": 3}]
    frame = found.to_frame().set_index("what")
    assert list(frame.index) == ["composite", "pathway", "target"]
    assert frame.loc["composite"].tolist() == [5, 6.5, 1.5]
    assert frame.loc["target", "difference"] == 0
    assert found.pathways["pathway"].tolist() == ["P2", "P1", "P3"]
    assert math.isnan(found.pathways.set_index("pathway").loc["P1", "score_b"])
    assert found.pearson == pytest.approx(1)


@pytest.mark.parametrize(
    ("de", "says"),
    [
        (None, "has no scored round"),
        (effects(["G1", "X"], [1.0, 2.0], [True, True]), "only 1 genes are in both"),
        (effects([f"G{i}" for i in range(12)], [0.5] * 12, [False] * 12), "are the same for every shared gene"),
    ],
)
def test_what_cannot_be_correlated_says_why(place, de, says):
    place(A, effects([f"G{i}" for i in range(12)], np.arange(12.0), [True] * 12))
    place(B, de)
    found = compare(A, B)
    assert math.isnan(found.pearson)
    assert says in found.reason
    assert says in repr(found)
    assert found.to_frame()["a"].notna().all()
    json.dumps(found.to_dict())


def test_text_of_users_is_escaped(place):
    genes = [f"G{i}" for i in range(12)]
    place(A, effects(genes, np.arange(12.0), [True] * 12), question="How would <script>alert(1)</script> B cells do?")
    place(B, effects(genes, np.arange(12.0), [True] * 12))
    page = compare(A, B)._repr_html_()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_a_run_that_is_not_there_is_named(place):
    place(A)
    with pytest.raises(NotFoundError, match=B):
        compare(A, B)


def test_a_fork_is_like_its_parent_but_for_what_was_changed(parent, world):
    made = fork(parent.run_id, changes={"threshold": 9}, settings=world)
    found = compare(parent.run_id, made.run_id, storage=world.storage)
    assert {row["what"] for row in found.differences} == {"threshold"}
    assert found.pearson == pytest.approx(1)
    assert found.counts["sign_flips"] == found.counts["de_only_a"] == 0
    assert found.counts["de_both"] > 0
    assert (found.to_frame()["difference"].dropna() == 0).all()
