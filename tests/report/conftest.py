"""A designed run: every gene, component and candidate is here for a stated reason."""

from datetime import UTC, datetime

import nbformat
import numpy as np
import pandas as pd
import pytest

from haystack_kernel.report import ReportBundle, RoundTables
from haystack_kernel.schema import (
    Candidate,
    CellSet,
    Choice,
    Component,
    Composite,
    EngineAgreement,
    Failure,
    Interpretation,
    Match,
    Perturbation,
    Resolution,
    Round,
    RunConfig,
    RunRecord,
    StructuredQuery,
)

NAN = float("nan")
KEY = "atlas/dataset/IFN-beta/CL:0000236"


def candidate(name, *, atlas, donor_matched=True):
    prompt = CellSet(atlas=atlas, dataset="dataset", is_control=False, perturbation="IFN-beta", n_cells=40, label=name)
    control = prompt.model_copy(update={"is_control": True, "perturbation": None, "n_cells": 30})
    return Candidate(
        key=KEY,
        strategy="direct",
        prompt=prompt,
        control=control,
        control_reason="30 control cells of the same 2 donors",
        donor_matched=donor_matched,
        relevance=0.5,
        score=0.625,
        evidence_distance="other_cell_type",
        reason=f"40 {name} cells treated with IFN-beta",
    )


def components():
    """One at its best, one against expectation, one that could not be computed."""
    return (
        Component(
            name="pathway_coherence",
            weight=0.25,
            score=8.5,
            statistic=0.75,
            p_signal=0.0002,
            p_specificity=0.001,
            n_genes=49,
            detail={"n_draws": 9999},
        ),
        Component(
            name="target_activation",
            weight=0.3,
            score=1.0,
            statistic=-0.5,
            p_signal=1,
            p_specificity=1,
            n_genes=7,
            reason="moves against expectation",
        ),
        Component(name="literature_support", weight=0.25, score=NAN, reason="no paper was searched"),
    )


def scored_round(name, *, atlas, composite):
    return Round(
        number=1,
        choice=Choice(candidate_keys=(KEY,), reason=f"Pools {name}"),
        candidates=(candidate(name, atlas=atlas),),
        query_cells="20 monocyte cells of 2 donors",
        n_prompt=40,
        n_control=30,
        n_query=20,
        components=components(),
        composite=composite,
        agreement=(
            EngineAgreement(engine="mean", pearson=0.5, n_de=3, composite=3.25),
            EngineAgreement(engine="shift", pearson=0.875, n_de=4, composite=6.5, note="close"),
            EngineAgreement(engine="none", pearson=NAN, n_de=0, composite=1.0, note="no correlation"),
        ),
        n_de=4,
        top_genes=("UP1", "UP2"),
        decision="stop: 7.3 reaches the threshold 7",
    )


def query(name):
    return StructuredQuery(
        question=f"How would {name} respond to IFN-beta?",
        task_type="perturbation_novel_cell_types",
        cell_type_id="CL:0000236",
        cell_type_name=name,
        perturbation=Perturbation(text="IFNb", name="IFN-beta", type="cytokine", targets=("IFNAR1",)),
        expected_targets={"UP1": 1, "DOWN1": -1},
        expected_pathways={"type I interferon response": 1},
        resolutions=(
            Resolution(
                text="mono",
                kind="cell_type",
                match=Match(id="CL:1", name="monocyte", score=0.9, how="fuzzy"),
                alternatives=(Match(id="CL:2", name="macrophage", score=0.9, how="fuzzy"),),
                ambiguous=True,
            ),
        ),
        unresolved=(
            Resolution(
                text="blorb",
                kind="perturbation",
                alternatives=(Match(id="TNF", name="TNF", score=0.4, how="fuzzy"),),
            ),
        ),
    )


@pytest.fixture
def make_run():
    """Factory of records: ``name`` goes wherever a user's or an atlas's text is shown."""

    def make(name="B cell", *, atlas="kang", composite=None, **changes):
        composite = composite or Composite(
            value=7.3, weight_computed=0.55, cap=7.3, reason="literature support not computed"
        )
        words = Interpretation(
            headline=f"Headline of {name}", paragraphs=(f"{name} paragraph",), limitations=("A limit",)
        )
        fields = {
            "run_id": "run-20260102t030405-abcdef",
            "question": f"How would {name} respond to IFN-beta?",
            "config": RunConfig(atlases=(atlas,)),
            "created_at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
            "status": "done",
            "query": query(name),
            "candidates": (candidate(name, atlas=atlas),),
            "rounds": (scored_round(name, atlas=atlas, composite=composite),),
            "best_round": 1,
            "termination": "threshold",
            "interpretation": words,
            "versions": {"haystack-kernel": "0.1.0", "numpy": "2.0"},
            "digests": {"atlas:kang": "0123456789abcdef"},
        }
        return RunRecord(**{**fields, **changes})

    return make


@pytest.fixture
def failed_run(make_run):
    """A run that stopped while it searched: no round, no answer."""
    failure = Failure(kind="NotFoundError", message="no atlas 'x'", step="retrieve")
    nothing = {"rounds": (), "best_round": None, "interpretation": None, "termination": None, "candidates": ()}
    return make_run(status="failed", failure=failure, **nothing)


@pytest.fixture
def de():
    """Two genes rise, two fall, three do nothing, one was not tested; AUROC and p are as their effects ask for."""
    names = ["UP1", "UP2", "DOWN1", "DOWN2", "FLAT1", "FLAT2", "FLAT3", "UNTESTED"]
    log2fc = np.array([6.0, 3.0, -4.0, -1.0, 0.2, -0.1, 0.0, 0.0])
    return pd.DataFrame(
        {
            "gene": names,
            "log2fc": log2fc,
            "delta": log2fc / 2,
            "detection_diff": log2fc / 10,
            "auroc": 0.5 + log2fc / 20,
            "pval": [1e-40, 1e-20, 1e-10, 1e-4, 0.5, 0.7, 1.0, 1.0],
            "padj": [1e-39, 1e-19, 1e-9, 1e-3, 0.8, 0.9, 1.0, np.nan],
            "is_tested": [True] * 7 + [False],
            "is_de": [True] * 4 + [False] * 4,
            "padded": [False] * 8,
            "flips": [False, False, False, True, False, False, False, False],
        }
    )


@pytest.fixture
def pathways():
    """An expected one that leads, a discovered one, one that falls, one that could not be computed."""
    return pd.DataFrame(
        {
            "pathway": ["type I interferon response", "chemokine response", "PPAR signalling", "empty pathway"],
            "statistic": [1.5, 0.5, -0.25, np.nan],
            "p_signal": [0.0001, 0.02, 0.5, np.nan],
            "p_donors": [0.004, 0.03, np.nan, np.nan],
            "p_specificity": [0.0001, 0.01, 0.9, np.nan],
            "score": [10.0, 5.5, 1.0, np.nan],
            "n_genes": [49, 20, 11, 0],
            "is_expected": [True, False, False, False],
            "leading_genes": ["ISG15;MX1", "CCL8", "FABP4", np.nan],
        }
    )


@pytest.fixture
def prompts():
    """Three prompt cells of two donors, two control cells of one, one query cell."""
    return pd.DataFrame(
        {
            "cell_id": [f"kang/dataset/{n}" for n in range(6)],
            "atlas": "kang",
            "dataset": "dataset",
            "cell_index": range(6),
            "cell_type_name": ["B cell", "B cell", "B cell", "B cell", "B cell", "monocyte"],
            "cell_type_cl_id": "CL:0000236",
            "perturbation_name": ["IFN-beta", "IFN-beta", "IFN-beta", np.nan, np.nan, np.nan],
            "donor_id": ["d1", "d1", "d2", "d1", "d1", "d2"],
            "role": ["prompt", "prompt", "prompt", "control", "control", "query"],
        }
    )


@pytest.fixture
def embedding():
    roles = ["control", "prompt", "query", "predicted"] * 5
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {"cell_id": [str(n) for n in range(20)], "role": roles, "umap1": rng.random(20), "umap2": rng.random(20)}
    )


@pytest.fixture
def tables(de, pathways, prompts, embedding):
    return RoundTables(de=de, pathways=pathways, prompts=prompts, embedding=embedding)


@pytest.fixture
def bundle(make_run, tables):
    return ReportBundle(record=make_run(), tables=tables)


PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


@pytest.fixture
def make_notebook():
    """Factory of executed notebooks: a heading, the parameters, then one code cell with the outputs given."""

    def make(*outputs, markdown="# Title\n\nSome *words*"):
        node = nbformat.v4
        defaults = node.new_code_cell("question = None", metadata={"tags": ["parameters"]})
        work = node.new_code_cell("first()\nsecond()", outputs=list(outputs))
        return node.new_notebook(cells=[node.new_markdown_cell(markdown), defaults, work])

    return make


@pytest.fixture
def picture():
    """Factory of an image output, with alternative text in its metadata or without."""

    def make(alt=None):
        metadata = {"image/png": {"alt": alt}} if alt else {}
        return nbformat.v4.new_output("display_data", data={"image/png": PIXEL}, metadata=metadata)

    return make
