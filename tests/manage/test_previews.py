"""A question looked at before it is asked: nothing is saved, refusals are those of asking, costs those of the jobs."""

import pytest

from haystack_kernel.config.connect import connect
from haystack_kernel.config.settings import load_settings
from haystack_kernel.errors import InvalidInputError, NotFoundError
from haystack_kernel.manage import preview
from haystack_kernel.rounds import estimate_round
from haystack_kernel.run import open_run

QUESTION = "How would B cells respond to IFN-beta?"


def test_a_preview_finds_what_the_run_would_and_saves_nothing(tiny_settings):
    seen = preview(QUESTION, settings=tiny_settings)
    assert seen.record.query.cell_type_name == "B cell"
    assert (seen.of_round, seen.low_usd, seen.high_usd) == (None, 0.0, 0.0)
    assert not connect(tiny_settings).store._run_ids()
    run = open_run(QUESTION, settings=tiny_settings).retrieve()
    assert [item.key for item in seen.record.candidates] == [item.key for item in run.record.candidates]


def test_a_preview_refuses_what_asking_refuses(tiny_settings):
    with pytest.raises(InvalidInputError, match="glorps"):
        preview("How would glorps respond to IFN-beta?", settings=tiny_settings)
    with pytest.raises(NotFoundError, match="nowhere"):
        preview(QUESTION, settings=tiny_settings, atlases=["nowhere"])


def test_a_preview_of_a_run_in_the_cloud_tells_the_range_of_its_rounds_and_its_orchestrator(tiny_settings):
    batch = {
        "project": "p",
        "region": "us-central1",
        "orchestrator_image": "o",
        "inference_image": "i",
        "insecure": True,
    }
    settings = load_settings(layer="test", **{**tiny_settings.model_dump(), "batch": batch})
    seen = preview(QUESTION, settings=settings, with_candidates=False, executor="batch", max_rounds=3)
    assert seen.record.candidates == ()
    assert seen.of_round == estimate_round(seen.record, connect(settings))
    assert seen.low_usd == pytest.approx(seen.of_round.low_usd + seen.of_orchestrator.low_usd)
    assert seen.high_usd == pytest.approx(3 * seen.of_round.high_usd + seen.of_orchestrator.high_usd)
