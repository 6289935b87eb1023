"""A run leaves as counts for DESeq2, as gene sets and as tables; an AnnData becomes an atlas."""

import json
import time
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import haystack_kernel as haystack
from haystack_kernel.errors import InvalidInputError, MissingKeyError, StorageError
from haystack_kernel.run import Run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(finished):
    ports, record = finished
    return Run(record, ports=ports)


def test_pseudobulk_of_a_run_sums_each_donor_and_role(run, tmp_path):
    found = haystack.export.pseudobulk(run, folder=tmp_path)
    assert found.counts.columns.tolist() == found.design.index.tolist()
    assert set(found.design["role"]) == {"prompt", "control", "query", "predicted"}
    assert found.counts.to_numpy().dtype == np.int64
    for role in ("prompt", "query"):
        cells = run.cells(role)
        for donor, of in cells.obs.groupby("donor_id", observed=True).indices.items():
            row = found.design[(found.design["role"] == role) & (found.design["donor_id"] == donor)]
            assert row["n_cells"].tolist() == [len(of)]
            summed = pd.Series(np.asarray(cells.X[of].sum(axis=0)).ravel(), index=cells.var_names)
            assert found.counts[row.index[0]].tolist() == summed[found.counts.index].astype(int).tolist()
    assert any("no replicates" in note for note in found.notes)
    counts = pd.read_csv(tmp_path / "pseudobulk_counts.csv", index_col=0)
    design = pd.read_csv(tmp_path / "pseudobulk_design.csv", index_col=0)
    pd.testing.assert_frame_equal(counts, found.counts, check_names=False)
    assert design.index.tolist() == counts.columns.tolist()
    assert all(name.isidentifier() or "." in name for name in counts)  # names that R keeps
    with pytest.raises(InvalidInputError, match="no 'treated' cells; the roles are prompt, control, query, predicted"):
        run.cells("treated")


def test_pseudobulk_of_any_cells_sums_what_is_named(tiny_h5ad):
    adata = ad.read_h5ad(tiny_h5ad)
    found = haystack.export.pseudobulk(adata, by=["donor_id", "perturbation"])
    assert len(found.design) == 9
    assert found.counts.to_numpy().sum() == adata.X.sum()
    with pytest.raises(InvalidInputError, match=r"name the columns of obs that make the samples"):
        haystack.export.pseudobulk(adata)
    with pytest.raises(MissingKeyError, match="no column 'batch'; it has cell_type, perturbation, donor_id"):
        haystack.export.pseudobulk(adata, by=["batch"])
    logged = adata.copy()
    logged.X = np.log1p(logged.X.toarray())
    with pytest.raises(InvalidInputError, match="holds fractions"):
        haystack.export.pseudobulk(logged, by=["donor_id"])


def test_called_genes_are_two_gene_sets_and_tables_are_files(run, tmp_path):
    lines = [line.split("\t") for line in haystack.export.gmt(run).splitlines()]
    assert lines[0][0] == "IFN_BETA_B_CELL_UP"
    called = run.de[run.de["is_de"]].set_index("gene")["log2fc"]
    for name, about, *genes in lines:
        assert run.run_id in about
        sign = 1 if name.endswith("_UP") else -1
        assert set(genes) == set(called[called * sign > 0].index)
        assert genes == sorted(genes, key=lambda gene: -sign * called[gene])
    written = haystack.export.write(run, folder=tmp_path / "out")
    assert len(written) == 8
    assert all(Path(path).stat().st_size for path in written)
    assert pd.read_csv(tmp_path / "out" / "de.csv")["gene"].tolist() == run.de["gene"].tolist()
    with pytest.raises(InvalidInputError, match="no form 'xlsx'; possible: pseudobulk, gmt, csv"):
        haystack.export.write(run, folder=tmp_path, what=["xlsx"])
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        haystack.export.gmt(run, folder=tmp_path / "file")


# --- an atlas ------------------------------------------------------------------------------------------------------


def test_an_anndata_becomes_an_atlas_that_a_question_searches(tiny_h5ad, tiny_settings, tmp_path):
    """Columns of other names; what is not named is found by its look and said; the object is not changed."""
    settings = tiny_settings.model_copy(update={"atlas_root": str(tmp_path / "atlases")})
    adata = ad.read_h5ad(tiny_h5ad)
    adata.obs = adata.obs.rename(columns={"perturbation": "stim", "donor_id": "ind"}).astype("category")
    before = adata.copy()
    report = haystack.atlas.from_anndata(
        adata, name="mine", perturbation_key="stim", control="control", donor_key="ind", settings=settings
    )
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    assert (report.n_cells, report.n_control) == (216, 108)
    assert {one.read_as for one in report.treatments} == {"treated", "control"}
    assert any("cell_type from 'cell_type'" in note for note in report.notes)
    run = haystack.open_run("How would B cells respond to IFN-beta?", atlases=["mine"], settings=settings).retrieve()
    assert all(one.donor_matched for one in run.record.candidates)
    with pytest.raises(MissingKeyError, match="batch"):
        haystack.atlas.from_anndata(adata, name="other", perturbation_key="batch", settings=settings)
    with pytest.raises(InvalidInputError, match="stim"):  # a column of treatments that is not named
        haystack.atlas.from_anndata(adata, name="other", settings=settings)
    assert [path.name for path in (tmp_path / "atlases").iterdir()] == ["mine"]
    with pytest.raises(InvalidInputError, match="give an AnnData, not str"):
        haystack.atlas.from_anndata("mine.h5ad", name="other", settings=settings)
    with pytest.raises(InvalidInputError, match="choose another name"):
        haystack.atlas.from_anndata(adata, name="own", settings=settings)


# --- the same question, asked in every way --------------------------------------------------------------------------


def answers_of(record, store):
    """What must not depend on how a question was asked; times and ids are left out."""
    tables = {name: store.read(record.run_id, name) for name in ("de.csv", "pathways.csv", "prompts.csv")}
    scored = [(one.choice, one.composite, one.components, one.n_de, one.top_genes) for one in record.rounds]
    facts = (record.question, record.config, record.query, record.candidates, record.inputs, record.digests)
    return repr((facts, scored)), tables


def test_the_same_question_by_magic_command_line_widget_and_service_is_the_same_run(few_cells, capsys, monkeypatch):
    """The command line executes the notebook by papermill; widget and service hand over to jobs as ``submit`` does."""
    pytest.importorskip("fastapi", reason="the extra 'service' is not installed")
    from haystack_kernel import widgets
    from haystack_kernel.cli import main
    from haystack_kernel.config.connect import connect
    from haystack_kernel.config.settings import load_settings
    from haystack_kernel.jupyter.magic import ask
    from haystack_kernel.service.app import build
    from haystack_kernel.service.identity import TokenIdentity
    from tests.service.conftest import Client

    question, store, token = "How would B cells respond to IFN-beta?", connect().store, "t" * 40
    opened = []  # ports whose executors started a job: each of them has to see it end

    def open_ports(consent):
        opened.append(connect(consent=consent))
        return opened[-1]

    form = widgets.ask(question, live=False, open_ports=open_ports).start()  # the jobs work while the others do
    service = build(load_settings(), identity=TokenIdentity(token), open_ports=open_ports)
    client = Client(service, authorization=f"Bearer {token}")
    answer = client.post("/api/v1/runs", json={"question": question})
    assert answer.status_code == 201, answer.text
    ids = {"magic": ask(question, shell=None).run_id}
    monkeypatch.setattr("sys.argv", ["haystack", "run", question])
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main()
    ids["command line"] = json.loads(capsys.readouterr().out)["run_id"]
    ids["widget"] = form.wait().run_id
    ids["service"] = haystack.attach(answer.json()["run_id"]).follow(lambda line: None).run_id
    for job in (store.load(ids[way]).orchestrator for way in ("widget", "service")):
        deadline = time.monotonic() + 120
        while not all(ports.executors["local"].status(job).is_terminal for ports in opened):
            assert time.monotonic() < deadline
            time.sleep(0.1)
    found = {way: answers_of(store.load(run_id), store) for way, run_id in ids.items()}
    for way in ids:
        assert found[way] == found["magic"], way
