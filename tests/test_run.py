"""Runs as objects: start, find again, look, list; what cannot be asked is refused."""

import math
from pathlib import Path

import nbformat
import pandas as pd
import pytest

import haystack_kernel as haystack
from haystack_kernel import flow, manage
from haystack_kernel.config import options
from haystack_kernel.config.connect import connect, software_versions
from haystack_kernel.config.settings import load_settings
from haystack_kernel.errors import ConflictError, InvalidInputError, NoCandidateError, NotFoundError
from haystack_kernel.knowledge import load_knowledge
from haystack_kernel.manage.previews import preview, quick_answer
from haystack_kernel.rounds.tested import compare_with_hidden
from haystack_kernel.run import Run, attach, list_runs, open_run, resume
from haystack_kernel.schema import Bill, Composite, HiddenPair, RunConfig, Settings

pytestmark = pytest.mark.slow

QUESTION = "How would B cells respond to IFN-beta?"


@pytest.fixture
def run(tiny_env):
    return open_run(QUESTION)


@pytest.fixture(scope="module")
def scored(tmp_path_factory, tiny_atlas_root):
    """A run on the tiny atlas up to its answer; tests only read it."""
    folder = tmp_path_factory.mktemp("scored")
    settings = load_settings(
        layer="test",
        storage=str(folder / "store"),
        atlas_root=str(tiny_atlas_root),
        cache=str(folder / "cache"),
        atlases=["tiny"],
        grounding={"n_draws": 199},
        inference={"n_prompt": 60, "n_query": 24},
        jobs={"poll_s": 0.05},
    )
    return open_run(QUESTION, settings=settings).work(until="interpret")


# --- starting -------------------------------------------------------------------------------------------------------


def test_open_run_saves_the_question_as_understood_before_anything_is_searched(run, tiny_env):
    assert (tiny_env / "runs" / run.run_id / "record" / "0001.json").exists()
    assert run.status() == {
        "run_id": run.run_id,
        "taken_as": "IFN-beta | B cell",
        "status": "running",
        "measured_already": "",
        "engine_chosen": "",
        "tested": [],
        "next_step": "retrieve",
        "rounds": 0,
        "best_round": None,
        "score": None,
        "headline": "",
        "score_words": "",
        "accuracy_words": "",
        "termination": None,
        "cost_usd": 0,
        "cost_by_kind": {},
        "folder": str(tiny_env / "runs" / run.run_id),
        "report": None,
        "failure": None,
        "worker": None,
        "detail": None,
        "orchestrator": None,
        "forked_from": None,
        "notes": [],
        "next_commands": [f"haystack attach {run.run_id}", f"haystack cancel {run.run_id}"],
    }
    assert run.query.cell_type_name == "B cell"
    assert [time.step for time in run.record.steps] == ["understand"]
    assert haystack.last() is run
    assert math.isnan(run.score)
    assert run.job_status() is None
    assert run.log() == ""
    assert run.notebook() is None
    assert repr(run) == f"Run('{run.run_id}', running, 0 round(s), not scored)"


def test_open_run_takes_options_over_settings_and_leaves_out_what_is_none(tiny_env):
    run = open_run(QUESTION, seed=5, engine=None, hide=["CD4 T cell:IFN-beta"], storage=str(tiny_env / "other"))
    config = run.record.config
    assert (config.seed, config.engine, config.n_query, config.max_rounds) == (5, "weighted", 24, 1)
    assert config.hide == (HiddenPair(cell_type_id="CL:0000624", perturbation="IFN-beta"),)
    assert run.folder.startswith(str(tiny_env / "other"))


def test_open_run_records_the_versions_that_numbers_depend_on(run):
    assert run.record.versions == software_versions()
    assert {"python", "numpy", "scipy", "haystack-kernel"} <= set(run.record.versions)


@pytest.mark.parametrize(
    ("question", "arguments", "says"),
    [
        (None, {}, "a new run needs a question"),
        ("too short", {}, "10 to 2,000"),
        (QUESTION, {"run_id": "../../etc"}, "is not a run id"),
        (QUESTION, {"run_id": "Run-20260102"}, "is not a run id"),
        (QUESTION, {"run_id": "run-1"}, "is not a run id"),
        (QUESTION, {"threshold": 99}, "threshold"),
        (QUESTION, {"n_query": 0}, "n_query"),
        (QUESTION, {"atlases": ["../x"]}, "atlases"),
        (QUESTION, {"engine": "magic"}, "engine"),
        (QUESTION, {"sead": 1}, "sead"),
        (QUESTION, {"hide": ["B cells"]}, "must be 'CELL TYPE:PERTURBATION'"),
        (QUESTION, {"storage": "ftp://x"}, "unknown scheme"),
        (QUESTION, {"storage": "gs://"}, "names no bucket"),
        (QUESTION, {"atlases": ["absent"]}, "absent"),
        (QUESTION, {"query_atlas": "absent"}, "absent"),
        (QUESTION, {"query_cells": "cell_type=B cell"}, "chooses among the cells of query_h5ad"),
        (QUESTION, {"pin": ["tiny/none/IFN-beta/CL:0000624"]}, "cannot pin tiny/none"),
        (QUESTION, {"pin": ["donor=d9"]}, "no donor 'd9'"),
        (QUESTION, {"ban": ["dataset=none"]}, "no dataset 'none'"),
        (QUESTION, {"query_h5ad": "absent.h5ad"}, "absent.h5ad"),
        (QUESTION, {"engine": "stack", "model": "absent.safetensors", "genelist": "absent.json"}, "absent.safetensors"),
        ("How would B cells respond to wobblin?", {}, "not a known treatment"),
        ("How would B cells in dataset nosuchset respond to IFN-beta?", {}, "no dataset 'nosuchset'.* there are tiny"),
        ("How would B cells of donor d77 respond to IFN-beta?", {}, "no donor 'd77'.* there are tiny:d"),
        (
            "Transfer the IFN-beta response of B cells from dataset elsewhere to dataset tiny.",
            {},
            "no dataset 'elsewhere'",
        ),
        ("How would B cells respond to IFN-beta, as in donor d77?", {}, "no donor 'd77'"),
        (QUESTION, {"pin": ["tiny/tiny/TNF-alpha/CL:0000624"]}, "cannot pin .*nearest of"),
        (QUESTION, {"pin": ["tiny/tiny/TNF-alpha/CL:0000623"]}, "cannot pin .*no such candidate.* possible here"),
        (QUESTION, {"ban": ["dataset=tiny"]}, "ban"),  # which leaves no candidate
        (QUESTION, {"hide": ["DC:IFN-beta"]}, "'DC' may mean dendritic cell"),
        (QUESTION, {"hide": ["monocites:IFN-beta"]}, "'monocites' may mean monocyte"),
        (QUESTION, {"hide": ["B cell:interferon"]}, "may mean IFN-beta or"),
        (QUESTION, {"hide": ["B cell:wobblin"]}, "unknown perturbation 'wobblin'; .*the atlases hold .*IFN-beta"),
    ],
)
def test_open_run_refuses_what_cannot_be_asked_and_makes_no_folder(tiny_env, question, arguments, says):
    with pytest.raises((InvalidInputError, NotFoundError, NoCandidateError), match=says):
        open_run(question, **arguments)
    assert not tiny_env.exists()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"target_dataset": "nosuchset"}, "no dataset 'nosuchset'"),
        ({"donor_id": "d77"}, "no donor 'd77'"),
        ({"reference_dataset": "nosuchset"}, "no dataset 'nosuchset'"),
        ({"reference_donor": "d77"}, "no donor 'd77'"),
    ],
)
def test_edit_query_refuses_names_that_the_atlases_lack_and_changes_nothing(run, changes, says):
    before = run.record
    with pytest.raises(NoCandidateError, match=says):
        run.edit_query(**changes)
    assert run.refresh().record == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"question": "How would B cells in dataset nosuchset respond to IFN-beta?"}, "no dataset 'nosuchset'"),
        ({"question": "How would B cells of donor d77 respond to IFN-beta?"}, "no donor 'd77'"),
        ({"changes": {"pin": ["tiny/tiny/TNF-alpha/CL:0000623"]}}, "no such candidate"),
        ({"changes": {"hide": ["B cell:wobblin"]}}, "unknown perturbation 'wobblin'"),
    ],
)
def test_fork_refuses_names_that_the_atlases_lack_and_makes_no_folder(run, arguments, says):
    with pytest.raises((InvalidInputError, NoCandidateError), match=says):
        haystack.fork(run.run_id, **arguments)
    assert [one.run_id for one in list_runs()] == [run.run_id]


@pytest.fixture
def mixed_cells(tiny_h5ad, tmp_path):
    """A function that writes some cells of the simulated file."""

    def write(*types):
        import anndata as ad

        cells = ad.read_h5ad(tiny_h5ad)
        cells[cells.obs["cell_type"].isin(types).to_numpy()].copy().write_h5ad(tmp_path / "mixed.h5ad")
        return str(tmp_path / "mixed.h5ad")

    return write


def test_open_run_refuses_own_cells_of_another_type_and_makes_no_folder(tiny_env, mixed_cells):
    says = r"no cells that its labels call untreated B cells.*36 treated .*It holds cell_type: NK cell \(36\)"
    with pytest.raises(InvalidInputError, match=says):
        open_run(QUESTION, query_h5ad=mixed_cells("NK cell"))
    assert not tiny_env.exists()


def test_open_run_says_which_of_the_own_cells_are_used(tiny_env, mixed_cells):
    told = []
    open_run(QUESTION, query_h5ad=mixed_cells("B cell", "NK cell"), progress=lambda event: told.append(event.message))
    assert any(
        "36 of 72 cells of mixed.h5ad; left out: 36 treated (perturbation: TNF-alpha (36))" in one for one in told
    )


def test_open_run_refuses_an_executor_that_is_not_configured(tiny_env, monkeypatch):
    monkeypatch.setenv("HAYSTACK_BATCH__INSECURE", "true")  # such a service may read this disk
    with pytest.raises(InvalidInputError, match=r"set batch\.project .*batch\.region .*batch\.inference_image"):
        open_run(QUESTION, executor="batch")
    assert not tiny_env.exists()


def test_last_is_the_newest_run_that_was_opened_here(run):
    assert haystack.last() is run
    found = attach(run.run_id)
    assert haystack.last() is found


# --- finding again --------------------------------------------------------------------------------------------------


def test_open_run_of_an_existing_run_goes_on_with_it(run):
    run.understand()
    found = open_run(f"  {QUESTION} ", run_id=run.run_id, seed=0)
    assert found.record == run.record
    assert open_run(run_id=run.run_id).record == run.record


@pytest.mark.parametrize(
    ("question", "given", "says"),
    [
        ("How would T cells respond to IFN-beta?", {}, "asks 'How would B cells"),
        (QUESTION, {"seed": 9}, "seed is 0, not 9"),
        (QUESTION, {"hide": ["CD4 T cell:IFN-beta"]}, "other options .*hide"),
    ],
)
def test_open_run_refuses_to_go_on_with_another_question_or_option(run, question, given, says):
    with pytest.raises(InvalidInputError, match=says):
        open_run(question, run_id=run.run_id, **given)


def test_open_run_when_the_id_is_taken_in_the_meantime_is_a_conflict(run):
    store = connect().store
    with pytest.raises(ConflictError):
        store.create(run.record)


def test_attach_only_reads_and_resume_makes_ready(run):
    run.cancel()
    found = attach(run.run_id)
    assert found.record == run.record
    assert found.retrieve().record.status == "cancelled"
    assert found.status()["next_step"] == "retrieve"
    ready = resume(run.run_id)
    assert (ready.record.status, ready.record.serial) == ("running", run.record.serial)
    assert len(ready.retrieve().record.candidates) == 2


def test_attach_names_the_runs_there_are(run):
    with pytest.raises(NotFoundError, match=run.run_id):
        attach("run-20200101t000000-000000")
    with pytest.raises(InvalidInputError, match="is not a run id"):
        attach("../x")


def test_list_runs_is_newest_first_and_leaves_out_what_is_no_run(tiny_env):
    ids = ["run-20260102t030405-aaaaaa", "run-20260103t030405-aaaaaa", "run-20251231t235959-ffffff"]
    for run_id in ids:
        open_run(QUESTION, run_id=run_id)
    (tiny_env / "runs" / "notes").mkdir()
    (tiny_env / "runs" / "run-20270101t000000-empty0").mkdir()
    assert [run.run_id for run in list_runs()] == [ids[1], ids[0], ids[2]]


def test_list_runs_warns_of_a_record_of_another_version_and_lists_the_rest(run, tiny_env):
    other = open_run(QUESTION, run_id="run-20260102t030405-aaaaaa")
    (tiny_env / "runs" / other.run_id / "record" / "0001.json").write_text('{"schema_version": 99}')
    with pytest.warns(UserWarning, match=f"{other.run_id} is left out"):
        assert [item.run_id for item in list_runs()] == [run.run_id]


def test_list_runs_of_an_empty_storage_is_empty_and_of_none_an_error(tiny_env):
    with pytest.raises(NotFoundError, match=f"storage {tiny_env} does not exist"):
        list_runs()
    tiny_env.mkdir()
    assert list_runs() == []


def test_follow_tells_each_finished_step_once_and_ends_with_the_run(run):
    run.work(until="choose").cancel()
    lines = []
    attach(run.run_id).follow(lines.append)
    assert [line.split(":")[0] for line in lines] == ["understand", "retrieve"]


# --- looking --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_scored_run_shows_its_tables_without_a_kernel_that_made_it(scored):
    assert repr(scored).startswith(f"Run('{scored.run_id}', running, 1 round(s), score ")
    assert scored.status()["next_step"] == "interpret"
    assert {"gene", "log2fc", "padj", "is_de"} <= set(scored.de)
    assert len(scored.pathways) > 10
    assert set(scored.prompts["role"]) == {"prompt", "control", "query"}
    assert list(scored.candidates.to_frame()["rounds"]) == ["1", "1"]
    assert scored.predictions.n_obs == 24
    assert scored.de is scored.de
    assert scored.job_status().state == "succeeded"
    assert "treated" in scored.log()
    assert scored.run_id in scored._repr_html_()


@pytest.mark.slow
def test_tables_follow_the_best_round_when_it_changes(scored):
    ports = connect(scored._ports.settings)
    run = Run(scored.record, ports=ports)
    first = run.de
    ports.store.write(run.run_id, "rounds/2/de.csv", b"gene,log2fc\nISG15,9\n")
    better = scored.record.rounds[0].model_copy(
        update={"number": 2, "composite": Composite(value=9, weight_computed=1)}
    )
    run.record = scored.record.model_copy(update={"rounds": (scored.record.rounds[0], better), "best_round": 2})
    assert run.score == 9
    assert run.de.equals(pd.DataFrame({"gene": ["ISG15"], "log2fc": [9]}))
    assert len(first) > 1000


def test_tables_before_a_round_is_scored_say_what_to_call(run):
    for name in ("de", "pathways", "prompts", "predictions", "embedding"):
        with pytest.raises(InvalidInputError, match="no scored round yet"):
            getattr(run, name)
    assert len(run.candidates) == 0


def test_notebook_is_the_executed_one(run, tiny_env):
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# ran", id="a")])
    (tiny_env / "runs" / run.run_id / "run.ipynb").write_text(nbformat.writes(nb))
    assert run.notebook().cells[0].source == "# ran"


# --- correcting the query -------------------------------------------------------------------------------------------


def test_edit_query_saves_a_step_undoes_what_followed_and_keeps_the_bills(ports, begin):
    begun = flow.work(begin(), ports, until="collect")
    bill = Bill(job_id="j", attempt=1, machine="m", seconds=60, usd=1.5, state="succeeded")
    paid = begun.rounds[0].model_copy(update={"bills": (bill,)})
    run = Run(ports.store.save(begun.model_copy(update={"rounds": (paid,)})), ports=ports)
    run.edit_query(cell_type_id="CL:0001054", cell_type_name="CD14-positive monocyte")
    assert ports.store.load(run.run_id) == run.record
    assert (flow.next_step(run.record), run.record.rounds, run.record.candidates) == ("retrieve", (), ())
    assert (run.record.steps[-1].step, run.record.cost_usd) == ("edit", 1.5)
    assert not [path for path in ports.store.files(run.run_id) if path.startswith("rounds/")]
    run.work(until="ground")
    assert len(set(ports.executors["local"].submitted)) == 2  # not the job of the cells before
    assert run.record.query.cell_type_name == "CD14-positive monocyte"
    with pytest.raises(InvalidInputError, match=r"colour: Extra inputs .*possible: question"):
        run.edit_query(colour="red")


def test_edit_query_counts_words_as_used_that_the_correction_writes(ports, begin):
    begun = flow.work(begin(), ports, until="retrieve")
    query = begun.query.model_copy(update={"unused": ("CD14-positive monocytes", "elderly")})
    run = Run(ports.store.save(begun.model_copy(update={"query": query})), ports=ports)
    run.edit_query(cell_type_id="CL:0001054", cell_type_name="CD14-positive monocyte")
    assert run.record.query.unused == ("elderly",)
    assert run.record.query.reading.endswith("not used: 'elderly'")


def test_with_settings_given_no_verb_reads_the_environment_or_the_working_directory(
    tiny_settings, tmp_path, monkeypatch
):
    (tmp_path / "haystack.toml").write_text("this is no TOML")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HAYSTACK_ROUNDS__MAXIMUM", "many")
    with pytest.raises(InvalidInputError):
        load_settings()
    run = open_run(QUESTION, settings=tiny_settings).retrieve()
    assert attach(run.run_id, settings=tiny_settings).record == run.record
    assert resume(run.run_id, settings=tiny_settings).work(until="assemble").record.rounds
    assert [one.run_id for one in list_runs(settings=tiny_settings)] == [run.run_id]
    assert [row.run_id for row in manage.list_summaries(settings=tiny_settings)] == [run.run_id]
    forked = haystack.fork(run.run_id, changes={"seed": 7}, settings=tiny_settings)
    assert haystack.compare(run.run_id, forked.run_id, settings=tiny_settings) is not None
    assert run.refresh().cancel().status()["status"] == "cancelled"
    manage.collect_garbage([run.run_id], settings=tiny_settings)


# --- options --------------------------------------------------------------------------------------------------------


def test_build_config_maps_every_setting_to_its_option():
    settings = Settings(
        seed=3,
        atlases=("a", "b"),
        planner="offline",
        rounds={"threshold": 6, "maximum": 2},
        inference={"engine": "shift", "n_prompt": 10, "n_query": 11, "control_strategy": "query_as_control"},
    )
    assert options.build_config(settings) == RunConfig(
        atlases=("a", "b"),
        planner="offline",
        engine="shift",
        control_strategy="query_as_control",
        threshold=6,
        max_rounds=2,
        n_prompt=10,
        n_query=11,
        literature=True,
        seed=3,
    )


def test_build_config_names_the_bad_option_and_the_possible_ones():
    with pytest.raises(InvalidInputError, match=r"max_rounds: .*possible: atlases, "):
        options.build_config(Settings(), max_rounds=0)


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("CD4 T cell:IFN-beta", ("CL:0000624", "IFN-beta")),
        (" b cells : interferon beta ", ("CL:0000236", "IFN-beta")),
        ("CL:0000236:IFN-beta", ("CL:0000236", "IFN-beta")),
        ("B cell:sgJAK2", ("CL:0000236", "JAK2 knock-out")),
        ("B cell:JAK2", ("CL:0000236", "JAK2 knock-out")),  # a gene that is no ligand can only have been changed
        ("B cell:TNF", ("CL:0000236", "TNF-alpha")),
        ("B cell:XQ-4471", ("CL:0000236", "XQ-4471")),  # an atlas may hold it: looked up once that is open
    ],
)
def test_parse_hidden_resolves_both_sides(text, pair):
    hidden = options.parse_hidden(text)
    assert (hidden.cell_type_id, hidden.perturbation) == pair
    assert options.build_config(Settings(), hide=text).hide == (hidden,)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("B cell", "must be 'CELL TYPE:PERTURBATION'"),
        (":IFN-beta", "must be"),
        ("B cell:", "must be"),
        ("wobble cell:IFN-beta", "unknown cell type 'wobble cell'; nearest known"),
        ("T/B cells:IFN-beta", r"'T/B cells' may mean T cell \(CL:0000084\) or B cell"),
    ],
)
def test_parse_hidden_refuses_what_it_cannot_name(text, says):
    with pytest.raises(InvalidInputError, match=says):
        options.parse_hidden(text)


def test_changed_options_names_only_what_differs():
    config = RunConfig(seed=4, hide=(HiddenPair(cell_type_id="CL:0000236", perturbation="IFN-beta"),))
    same = {"seed": 4, "hide": ["B cell:IFN-beta"], "engine": None, "atlases": ["demo"]}
    assert options.changed_options(config, Settings(), **same) == ""
    assert options.changed_options(config, Settings(), seed=5, n_query=256) == "seed is 4, not 5"


# --- the composition root -------------------------------------------------------------------------------------------


def test_connect_listens_to_nothing_by_default_and_opens_the_atlases_named(tiny_settings):
    ports = connect(tiny_settings)
    assert ports.open_atlas(["tiny"]).digests().keys() == {"tiny"}
    with pytest.raises(NotFoundError, match="tiny"):
        ports.open_atlas(["absent"])


def test_connect_refuses_a_cache_that_is_no_local_folder(tiny_settings):
    with pytest.raises(InvalidInputError, match="cache"):
        connect(tiny_settings.model_copy(update={"cache": "gs://bucket/cache"}))


@pytest.fixture(scope="session")
def unknown_atlas(tiny_h5ad):
    """Folder of the atlas "tiny", in which IFN-beta is called XQ-4471 and monocytes are zorblax II without an id."""
    import anndata as ad

    from haystack_kernel.atlas import build_atlas, load_mapping

    adata = ad.read_h5ad(tiny_h5ad)
    for column, names in (("perturbation", {"IFN-beta": "XQ-4471"}), ("cell_type", {"CD14+ monocyte": "zorblax II"})):
        adata.obs[column] = adata.obs[column].astype(str).replace(names)
    path = tiny_h5ad.parent / "unknown.h5ad"
    adata.write_h5ad(path)
    root = tiny_h5ad.parent / "unknown-atlases"
    mapping = load_mapping("cellxgene", perturbation_column="perturbation", control=["control"])
    build_atlas(str(path), name="tiny", root=root, mapping=mapping, knowledge=load_knowledge())
    return root


@pytest.mark.slow
def test_a_treatment_and_cells_that_only_the_atlas_knows_are_answered_and_the_answer_says_what_is_missing(
    tiny_settings, unknown_atlas
):
    settings = tiny_settings.model_copy(update={"atlas_root": str(unknown_atlas)})
    options = {"settings": settings, "engine": "weighted", "literature": False, "max_rounds": 1}
    run = open_run("How would zorblax II respond to XQ-4471?", **options).work()
    assert (run.query.cell_type_name, run.query.perturbation.name) == ("zorblax II", "XQ-4471")
    assert run.record.rounds[0].candidates[0].evidence_distance == "same_pair"
    headline = run.record.interpretation.headline
    assert "not scored: only 0% of the weight could be computed" in headline
    assert "no expected pathways of XQ-4471 are in the knowledge tables" in headline
    hidden = open_run("How would B cells respond to XQ-4471?", hide=["monocyte:XQ-4471"], **options)
    assert hidden.record.config.hide[0].perturbation == "XQ-4471"
    # nobody knows what zorblax II are, so they may be CD4 T cells, too, and none is left
    with pytest.raises(NoCandidateError, match="all 72 cells treated with XQ-4471 are hidden"):
        open_run("How would B cells respond to XQ-4471?", hide=["CD4 T cell:XQ-4471"], **options)
    with pytest.raises(InvalidInputError, match="XQ-9999"):
        open_run("How would B cells respond to XQ-4471?", hide=["CD4 T cell:XQ-9999"], **options)


@pytest.mark.slow
def test_a_response_that_is_measured_already_is_said_and_a_hidden_one_tests_the_prediction(tiny_settings):
    asked_about = "How would CD4 T cells respond to IFN-beta?"
    options = {"settings": tiny_settings, "engine": "weighted", "literature": False, "max_rounds": 1}
    seen = preview(asked_about, settings=tiny_settings)
    asked = seen.record.measured[0].prompt
    assert (asked.perturbation, asked.cell_type_ids) == ("IFN-beta", (seen.record.query.cell_type_id,))
    assert f"{asked.n_cells} cells under IFN-beta" in seen.record.measured_words
    assert f"--hide '{seen.record.query.cell_type_name}:IFN-beta'" in seen.record.measured_words
    effects = quick_answer(seen.record, settings=tiny_settings).effects
    assert effects["measured"].notna().all()
    assert effects[["weighted", "measured"]].corr().iloc[0, 1] > 0.5  # the prompt holds the measured cells
    run = open_run(asked_about, hide=["CD4 T cell:IFN-beta"], **(options | {"n_query": 12})).work()
    assert run.record.measured_words == ""
    (told,) = run.record.truth
    assert (told.pair, told.n_treated) == (f"{seen.record.query.cell_type_name} : IFN-beta", asked.n_cells)
    assert told.words in run.status()["tested"]
    assert "Tested against the measurement" in Path(run.folder, "report.html").read_text()
    # an atlas that has gone since costs the test, not the answer
    connected = connect(tiny_settings.model_copy(update={"atlas_root": str(Path(run.folder, "nowhere"))}))
    (untold,) = compare_with_hidden(run.record, connected)
    assert math.isnan(untold.pearson)
    assert untold.reason.startswith("its cells could not be read: ")
