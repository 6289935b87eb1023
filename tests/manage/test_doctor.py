"""Doctor: every check answers in time, says what to do, shows no secret; what is needed decides."""

import threading
import time

import pytest

from haystack_kernel.errors import InvalidInputError
from haystack_kernel.manage.doctor import Check, examine, is_well
from haystack_kernel.schema import ClaudeSettings, Settings


@pytest.fixture
def settings(tmp_path):
    folders = {name: str(tmp_path / name) for name in ("storage", "cache", "atlas_root", "knowledge")}
    return Settings(**folders)


def by_name(lines):
    return {line.check: line for line in lines}


def test_this_installation_is_fit_for_local_runs_and_nothing_is_left_behind(settings, tmp_path):
    lines = examine("local", settings=settings)
    found = by_name(lines)
    assert is_well(lines), [line for line in lines if not line.ok]
    assert found["python"].found.startswith("Python 3.")
    assert "free" in found["storage"].found
    assert "demo.safetensors" in found["demo model"].found
    assert list(tmp_path.iterdir()) == []
    assert set(found["python"].to_dict()) == {"check", "ok", "found", "remedy", "needed"}


def test_a_folder_that_cannot_be_written_is_named_with_its_setting(settings, tmp_path):
    (tmp_path / "file").write_text("no folder")
    broken = settings.model_copy(update={"storage": str(tmp_path / "file" / "runs")})
    line = by_name(examine("local", settings=broken))["storage"]
    assert not line.ok
    assert "HAYSTACK_STORAGE" in line.remedy


def test_an_atlas_that_is_configured_and_absent_is_named(settings):
    wanted = settings.model_copy(update={"atlases": ("demo", "kang")})
    line = by_name(examine("local", settings=wanted))["atlas_root"]
    assert (line.ok, "kang" in line.found, "atlas build" in line.remedy) == (False, True, True)


def test_atlases_that_are_there_are_listed(settings, tiny_atlas_root):
    line = by_name(examine("local", settings=settings.model_copy(update={"atlas_root": str(tiny_atlas_root)})))
    assert "tiny" in line["atlas_root"].found


def test_who_reads_questions_and_what_assistants_may_spend_is_told_without_the_key(settings):
    def lines(planner="auto", claude=None, mcp=None):
        update = {"planner": planner, "claude": claude or settings.claude, "mcp": mcp or settings.mcp}
        return by_name(examine("local", settings=settings.model_copy(update=update)))

    without = lines(mcp=settings.mcp.model_copy(update={"max_usd": 5.0}))
    assert without["planner"].found == "auto: questions are read by rules, no language model is asked"
    assert "may cost 5.00 USD together, 2 at a time" in without["assistants"].found
    lacking = lines("claude")
    assert (lacking["planner"].ok, "HAYSTACK_CLAUDE__API_KEY" in lacking["planner"].remedy) == (False, True)
    assert "may cost nothing" in lacking["assistants"].found
    configured = lines(claude=ClaudeSettings(api_key="sk-secret"))["planner"]
    assert (configured.ok, "claude-sonnet" in configured.found) == (True, True)
    assert "sk-secret" not in str(configured.to_dict())


def test_a_check_that_hangs_is_cut_off_and_a_broken_one_is_told(settings):
    forever = threading.Event()

    def hang(settings):
        forever.wait(600)

    def break_down(settings):
        msg = "the library is of another processor\nsecond line"
        raise OSError(msg)

    started = time.monotonic()
    extra = (
        Check("hangs", hang, limit_s=0.2),
        Check("breaks", break_down),
        Check("minor", hang, needed=False, limit_s=0.1),
    )
    lines = examine("local", settings=settings, extra=extra)
    forever.set()
    found = by_name(lines)
    assert time.monotonic() - started < 300  # the check would hang for ten minutes
    assert (found["hangs"].ok, found["hangs"].found) == (False, "no answer within 0.2 s")
    assert found["breaks"].found == "OSError: the library is of another processor"
    assert not is_well(lines)
    assert is_well([found["python"], found["minor"]])


def test_batch_needs_settings_credentials_and_a_bucket(settings, monkeypatch, tmp_path):
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    found = by_name(examine("batch", settings=settings))
    assert not found["credentials"].ok
    assert "HAYSTACK_BATCH__PROJECT" in found["batch settings"].remedy
    assert "gs://bucket/prefix" in found["bucket"].remedy
    assert not found["batch service"].ok
    assert not is_well(list(found.values()))


def test_another_purpose_is_refused(settings):
    with pytest.raises(InvalidInputError, match=r"possible: local, batch$"):
        examine("claude", settings=settings)
