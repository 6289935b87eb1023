"""A seal fixes a prediction by digests: what leaves it as it is, what it notices, and that its first date stays."""

import hashlib
import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from haystack_kernel import campaign, keys
from haystack_kernel.campaign.sealing import SEALED_COLUMNS, check_seal, open_seal, seal, table_digest
from haystack_kernel.errors import InvalidInputError, NotFoundError
from haystack_kernel.store import RunStore, layout

pytestmark = pytest.mark.slow  # they need a finished run


@pytest.fixture
def run_folder(sealed_run, tiny_settings):
    """Folder of the sealed run."""
    return Path(tiny_settings.storage) / layout.RUNS / sealed_run.of


def rewrite(path, change):
    table = pd.read_csv(path, converters={keys.GENE: str})
    change(table).to_csv(path, index=False, float_format="%.9g")


def test_no_module_of_the_package_has_the_name_of_a_verb_which_importing_it_would_replace():
    folder = Path(campaign.__file__).parent
    assert not {path.stem for path in folder.glob("*.py")} & set(campaign.__all__)
    assert all(callable(getattr(campaign, name)) for name in campaign.__all__)


def test_a_seal_says_what_was_predicted_by_what_and_what_is_expected_of_it(sealed_run, finished):
    _, record = finished
    (one,) = sealed_run.predictions
    assert (sealed_run.kind, sealed_run.of) == ("run", record.run_id)
    assert (one.perturbation, one.cell_type, one.cell_type_id) == ("IFN-beta", "B cell", "CL:0000236")
    assert (one.engine, one.atlas, one.evidence) == ("weighted", "tiny", "other_cell_type")
    assert one.stamp == record.digests["atlas:tiny"]
    assert 0 < one.features["similarity"] <= 1
    assert one.expected == record.best.confidence.expected
    assert one.back_tested is None  # the tiny atlas was not back-tested
    assert not one.measured


def test_a_person_with_other_programs_computes_the_same_digests(sealed_run, run_folder):
    raw = json.loads(sealed_run.model_dump_json())
    digest = raw.pop("digest")
    text = json.dumps(raw, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert hashlib.sha256(text.encode()).hexdigest() == digest
    table = sealed_run.predictions[0].table
    shown = pd.read_csv(run_folder / table.path)[list(table.columns)].sort_values(keys.GENE)
    assert hashlib.sha256(shown.to_csv(index=False, float_format="%.9g").encode()).hexdigest() == table.sha256
    for path, sha256 in sealed_run.files.items():
        assert hashlib.sha256((run_folder / path).read_bytes()).hexdigest() == sha256


def test_the_same_prediction_sealed_again_keeps_its_first_date(sealed_run, run_folder, tiny_settings):
    assert seal(run_folder.name, settings=tiny_settings) == sealed_run
    assert check_seal(sealed_run.id, settings=tiny_settings).ok


def test_a_changed_number_is_found_and_another_order_or_a_new_column_is_not(sealed_run, run_folder, tiny_settings):
    path = run_folder / layout.DE
    rewrite(path, lambda table: table.iloc[::-1].assign(of_a_later_version=1))
    assert check_seal(sealed_run, settings=tiny_settings).ok

    def nudge(table):
        table.loc[3, keys.EFFECT] += 1e-6
        return table

    rewrite(path, nudge)
    found = check_seal(sealed_run, settings=tiny_settings)
    assert not found.ok
    assert [line.check for line in found.lines if line.ok is False] == ["predictions"]
    assert "IFN-beta in B cell" in repr(found)
    with pytest.raises(InvalidInputError, match=r"de\.csv of run .* is not the file that the run made"):
        seal(run_folder.name, settings=tiny_settings)


def test_every_sealed_column_counts():
    table = pd.DataFrame({name: [0.5, 0.25] for name in SEALED_COLUMNS} | {keys.GENE: ["NA", "B"]})
    base = table_digest(table, SEALED_COLUMNS)
    for name in SEALED_COLUMNS:
        other = table.copy()
        other.loc[0, name] = "C" if name == keys.GENE else 0.75
        assert table_digest(other, SEALED_COLUMNS) != base, name


def test_a_record_or_a_published_file_that_was_changed_is_named(sealed_run, run_folder, tiny_settings):
    path = run_folder / next(name for name in sealed_run.files if name.startswith(layout.RECORDS))
    path.chmod(0o644)
    path.write_text(path.read_text().replace("IFN-beta", "IFN-alpha"))
    found = check_seal(sealed_run, settings=tiny_settings)
    wrong = [line.check for line in found.lines if line.ok is False]
    assert wrong == [f"{layout.RECORDS}/{path.name}"]


def test_a_seal_that_was_changed_is_refused_and_one_without_its_run_is_checked_as_far_as_possible(
    sealed_run, run_folder, tiny_settings, tmp_path
):
    given = tmp_path / "given.json"
    given.write_text(sealed_run.model_dump_json())
    shutil.rmtree(run_folder)
    found = check_seal(given, settings=tiny_settings)
    assert found.ok
    assert {line.ok for line in found.lines} == {True, None}
    given.write_text(sealed_run.model_dump_json().replace('"B cell"', '"T cell"'))
    with pytest.raises(InvalidInputError, match="was changed after it was sealed"):
        open_seal(given, settings=tiny_settings)


def test_what_is_no_seal_or_has_no_result_is_refused_with_what_there_is(sealed_run, tiny_settings, tmp_path):
    with pytest.raises(NotFoundError, match=f"there is no seal seal-000; .* has {sealed_run.id}"):
        open_seal("seal-000", settings=tiny_settings)
    other = tmp_path / "other.json"
    other.write_text("[1]")
    with pytest.raises(InvalidInputError, match="is no seal of HAYSTACK"):
        open_seal(other, settings=tiny_settings)
    with pytest.raises(InvalidInputError, match="the id of no run or screen"):
        seal("no such thing", settings=tiny_settings)
    with pytest.raises(NotFoundError, match="no run 'run-20260101t000000-000000'"):
        seal("run-20260101t000000-000000", settings=tiny_settings)
    store = RunStore(tiny_settings.storage)
    store.save(store.load(sealed_run.of).model_copy(update={"status": "failed"}))
    with pytest.raises(InvalidInputError, match=r"has no result yet \(failed\); finish it with"):
        seal(sealed_run.of, settings=tiny_settings)
