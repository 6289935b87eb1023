"""What is recorded and shared does not show the home folder; what must be opened is found all the same."""

import json

import pytest

from haystack_kernel import flow
from haystack_kernel.config.options import build_config
from haystack_kernel.errors import NotFoundError
from haystack_kernel.rounds.publishing import write_report
from haystack_kernel.schema import RunConfig, Settings
from haystack_kernel.store import hide_home

pytestmark = pytest.mark.slow


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The folder that holds storage, cache and files of a test is somebody's home."""
    monkeypatch.setenv("HOME", str(tmp_path))
    return str(tmp_path)


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("{home}", "~"),
        ("{home}/runs/x.h5ad", "~/runs/x.h5ad"),
        ("cannot read '{home}/a', nor {home}/b", "cannot read '~/a', nor ~/b"),
        ('{{"path": "{home}/a"}}', '{{"path": "~/a"}}'),
        ("{home}-of-another/a", None),
        ("{home}.bak/a", None),
        ("/mnt{home}/a", None),
        ("QUJD{home}/QUJD", None),  # base64 of a picture
        ("gs://bucket/a", None),
    ],
)
def test_hide_home_replaces_whole_paths_alone(home, text, hidden):
    given = text.format(home=home)
    assert hide_home(given) == (given if hidden is None else hidden.format(home=home))


def test_a_home_at_the_root_hides_nothing(monkeypatch):
    monkeypatch.setenv("HOME", "/")
    assert hide_home("/data/x") == "/data/x"


def test_paths_of_options_are_kept_from_the_home_folder_on_and_found_again(home, tmp_path):
    for name in ("m.ckpt", "genes.json"):
        (tmp_path / name).write_text("x")
    options = {"model": f"{home}/m.ckpt", "genelist": "~/genes.json", "query_h5ad": f"{home}/q.h5ad"}
    config = build_config(Settings(), engine="stack", **options)
    assert (config.model, config.genelist, config.query_h5ad) == ("~/m.ckpt", "~/genes.json", "~/q.h5ad")
    assert config.located().model == f"{home}/m.ckpt"
    assert RunConfig().located() == RunConfig()


def test_no_record_of_a_run_shows_the_home_folder_and_the_job_finds_its_files(home, ports, begin):
    record = flow.work(begin(), ports, until="interpret")
    assert record.rounds[0].task_seconds
    assert record.rounds[0].spec.manifest_uri == "rounds/1/manifest.json"
    for path in ports.store.files(record.run_id):
        if path.startswith(("record/", "run.json", "summary.json")):
            assert home not in ports.store.read(record.run_id, path).decode()
    write_report(record, ports)
    assert home not in ports.store.read(record.run_id, "report.html").decode()


def test_a_failure_shows_no_home_folder(home, ports, begin):
    record = begin(query_h5ad=f"{home}/gone.h5ad")
    with pytest.raises(NotFoundError, match=r"gone\.h5ad"):
        flow.work(record, ports, until="submit")
    failure = ports.store.load(record.run_id).failure
    assert "~/gone.h5ad" in failure.message
    assert home not in json.dumps(failure.model_dump())
