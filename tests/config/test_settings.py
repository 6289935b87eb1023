"""Where settings come from, who wins, and what is refused."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import ValidationError

from haystack_kernel.config.settings import LAYERS, load_settings
from haystack_kernel.errors import InvalidInputError
from haystack_kernel.schema import CostSettings, RetrievalSettings, RunConfig, RunRecord, Settings


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working directory and an environment without settings."""
    import os

    for name in list(os.environ):
        if name.startswith("HAYSTACK_") or name == "DYNACONF":
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_without_files_and_variables_the_defaults_of_the_model_hold(folder):
    settings = load_settings()
    assert settings == Settings()
    assert settings.storage == str(Path("~/haystack").expanduser())


@pytest.mark.parametrize(("layer", "n_rounds"), [("default", 5), ("dev", 5), ("prod", 5), ("test", 1), ("TEST", 1)])
def test_dynaconf_picks_the_layer(folder, monkeypatch, layer, n_rounds):
    assert load_settings(layer).rounds.maximum == n_rounds
    monkeypatch.setenv("DYNACONF", layer)
    assert load_settings().rounds.maximum == n_rounds
    assert load_settings("test").rounds.maximum == 1  # the argument wins over the environment


def test_an_unknown_layer_is_refused_with_those_there_are(folder, monkeypatch):
    monkeypatch.setenv("DYNACONF", "staging")
    with pytest.raises(InvalidInputError, match=f"'staging'.*{', '.join(LAYERS)}"):
        load_settings()


def test_a_file_in_the_working_directory_refines_the_packaged_layers(folder):
    (folder / "haystack.toml").write_text(
        '[default]\nseed = 3\natlases = ["a", "b"]\n[default.retrieval]\nn_top = 4\n[test]\natlases = ["c"]\n'
    )
    settings = load_settings()
    assert (settings.seed, settings.atlases, settings.retrieval.n_top) == (3, ("a", "b"), 4)
    assert settings.retrieval.max_candidates == RetrievalSettings().max_candidates
    assert load_settings("test").atlases == ("c",)  # lists are replaced, not joined
    assert load_settings("test").rounds.maximum == 1


def test_an_option_that_no_longer_exists_is_ignored_in_files_and_in_records(folder):
    (folder / "haystack.toml").write_text('[default.retrieval]\nvectoriser = "tfidf"\nn_top = 4\n')
    settings = load_settings()
    assert settings.retrieval == RetrievalSettings(n_top=4)
    assert "vectoriser" not in settings.model_dump()["retrieval"]
    now = datetime(2026, 1, 1, tzinfo=UTC)
    old = {"retrieval": {"vectoriser": "minilm", "n_top": 4}}
    record = RunRecord(run_id="run-of-before", question="?", config=RunConfig(), created_at=now, settings=old)
    assert record.settings == {"retrieval": {"n_top": 4}}


def test_environment_variables_win_over_files_sections_by_double_underscore(folder, monkeypatch):
    (folder / "haystack.toml").write_text(
        '[default]\nseed = 3\natlases = ["a"]\n[default.rounds]\nmaximum = 4\nthreshold = 6\n'
    )
    for name, value in {
        "HAYSTACK_SEED": "8",
        "HAYSTACK_ATLASES": '["x", "y"]',
        "HAYSTACK_ROUNDS__MAXIMUM": "2",
        "HAYSTACK_GROUNDING__N_DRAWS": "199",
        "HAYSTACK_STORAGE": "gs://bucket/prefix/",
        "HAYSTACK_CACHE": "~/c",
    }.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert (settings.seed, settings.atlases) == (8, ("x", "y"))
    assert (settings.rounds.maximum, settings.rounds.threshold) == (2, 6.0)
    assert settings.grounding.n_draws == 199
    assert settings.storage == "gs://bucket/prefix"
    assert settings.cache == str(Path("~/c").expanduser())


@pytest.mark.parametrize(("text", "atlases"), [("tiny", ("tiny",)), ("a, b", ("a", "b")), ('["a"]', ("a",))])
def test_atlases_may_be_given_as_a_list_or_with_commas(folder, monkeypatch, text, atlases):
    monkeypatch.setenv("HAYSTACK_ATLASES", text)
    assert load_settings().atlases == atlases


def test_overrides_win_over_everything_merge_into_sections_and_none_is_ignored(folder, monkeypatch):
    monkeypatch.setenv("HAYSTACK_SEED", "8")
    monkeypatch.setenv("HAYSTACK_ROUNDS__THRESHOLD", "6")
    settings = load_settings(seed=9, storage=None, rounds={"maximum": 2, "threshold": None})
    assert (settings.seed, settings.rounds.maximum, settings.rounds.threshold) == (9, 2, 6.0)
    assert settings.storage == Settings().storage


def test_relative_folders_become_absolute(folder):
    assert load_settings(storage="runs").storage == str(folder / "runs")


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("HAYSTACK_SEED", "-1", "seed: "),
        ("HAYSTACK_SEED", "many", "seed: "),
        ("HAYSTACK_ROUNDS__THRESHOLD", "11", "rounds.threshold: "),
        ("HAYSTACK_ROUNDS__MAXIMUM", "two", "rounds.maximum: "),
        ("HAYSTACK_GROUNDING__N_DRAWS", "3", "grounding.n_draws: "),
        ("HAYSTACK_INFERENCE__ENGINE", "no name", "inference.engine: "),
        ("HAYSTACK_ATLASES", '["../x"]', "atlases.0: "),
        ("HAYSTACK_STORAGE", " ", "storage: "),
        ("HAYSTACK_KNOWLEDGE", "gs://bucket/knowledge", "knowledge: must be a local folder"),
        ("HAYSTACK_NONSENSE", "1", "nonsense is no setting; possible: storage, atlas_root, knowledge"),
        ("HAYSTACK_NONSENSE__DEEP", "1", "nonsense is no setting"),
        ("HAYSTACK_ROUNDS__NONSENSE", "1", "rounds.nonsense is no setting; possible: threshold, maximum"),
        ("HAYSTACK_ROUNDS", "3", "rounds: "),
    ],
)
def test_bad_values_and_unknown_names_are_refused_by_name(folder, monkeypatch, name, value, says):
    monkeypatch.setenv(name, value)
    with pytest.raises(InvalidInputError) as caught:
        load_settings()
    assert says in str(caught.value)
    assert "HAYSTACK_<NAME>" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[default]\ncolour = 1\n", "colour is no setting"),
        ('storage = "x"\n', r"has storage outside the layers; put settings under \[default\]"),
        ("[staging]\nseed = 1\n", "has staging outside the layers"),
        ("[default\n", "is not valid TOML"),
    ],
)
def test_a_settings_file_that_would_be_ignored_is_refused(folder, text, says):
    (folder / "haystack.toml").write_text(text)
    with pytest.raises(InvalidInputError, match=says):
        load_settings()


def test_settings_cannot_be_changed():
    with pytest.raises(ValidationError):
        Settings().seed = 3


def test_the_cloud_is_set_by_variables_lists_and_tables_included(folder, monkeypatch):
    secret = "projects/lab/secrets/claude/versions/latest"
    for name, value in {
        "HAYSTACK_BATCH__PROJECT": "lab",
        "HAYSTACK_BATCH__REGION": "us-central1",
        "HAYSTACK_BATCH__ZONES": "us-central1-a, us-central1-b",
        "HAYSTACK_BATCH__POLL_INTERVAL_S": "5",
        "HAYSTACK_BATCH__ENDPOINT": "localhost:8080",
        "HAYSTACK_BATCH__INSECURE": "true",
        "HAYSTACK_BATCH__SECRETS": f'{{ANTHROPIC_API_KEY = "{secret}"}}',
        "HAYSTACK_COST__MAX_USD": "12.5",
    }.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    batch, cost = settings.batch, settings.cost
    assert (batch.project, batch.region, batch.poll_interval_s) == ("lab", "us-central1", 5)
    assert batch.zones == ("us-central1-a", "us-central1-b")
    assert (batch.endpoint, batch.insecure) == ("localhost:8080", True)
    assert batch.secrets == {"ANTHROPIC_API_KEY": secret}
    assert cost.max_usd == 12.5
    assert load_settings(cost={"max_usd": None}).cost.max_usd == 12.5  # what the caller leaves out stays as configured


@pytest.mark.parametrize("value", ["true", "false"])
def test_no_setting_approves_spending_and_one_that_tries_says_what_to_do(folder, monkeypatch, value):
    monkeypatch.setenv("HAYSTACK_COST__APPROVE", value)
    with pytest.raises(InvalidInputError, match=r"cost\.approve is not a setting.*--yes.*approve=True"):
        load_settings()
    monkeypatch.delenv("HAYSTACK_COST__APPROVE")
    (folder / "haystack.toml").write_text(f"[default.cost]\napprove = {value}\n")
    with pytest.raises(InvalidInputError, match=r"Remove it from haystack\.toml"):
        load_settings()
    with pytest.raises(ValueError, match="not a setting"):
        CostSettings(approve=True)
