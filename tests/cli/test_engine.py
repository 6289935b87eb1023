"""``haystack engine``: what can predict, and whether an engine of another package answers as it must."""

from __future__ import annotations

import json
import shutil

import pytest

from haystack_kernel.cli import main
from haystack_kernel.config.engines import check_engine, engine_names, list_engines
from haystack_kernel.config.settings import load_settings
from haystack_kernel.errors import InvalidInputError
from tests.packages import EXAMPLE, install

__all__ = ["install"]


def _run(monkeypatch, capsys, *words):
    monkeypatch.setattr("sys.argv", ["haystack", *words])
    code = 0
    try:
        main()
    except SystemExit as end:
        code = end.code or 0
    return code, capsys.readouterr()


def test_list_names_every_engine_with_its_terms_or_why_it_cannot_be_used(install, monkeypatch, capsys):
    install({"mine": "foreign_code:Mine", "stack": "foreign_code:Mine"})
    code, said = _run(monkeypatch, capsys, "engine", "list", "--json")
    rows = json.loads(said.out)["engines"]
    assert code == 0
    assert {"none", "weighted", "additive", "stack"} <= {row["name"] for row in rows if not row["fault"]}
    mine = next(row for row in rows if row["name"] == "mine")
    assert (mine["package"], mine["licence"], mine["fault"]) == ("foreign 2.1", "MIT", "")
    assert ["its author must choose another one" in row["fault"] for row in rows if row["fault"]] == [True]


def test_names_are_refused_with_the_nearest_and_images_serve_the_cloud_alone(install):
    install({"mine": "foreign_code:Mine"})
    settings = load_settings(batch={"engine_images": {"far": "registry/far:1"}})
    assert engine_names(settings)[-2:] == ["far", "mine"]
    assert next(one for one in list_engines(settings) if one.name == "far").image == "registry/far:1"
    check_engine("mine", settings=settings, executor="local")
    check_engine("far", settings=settings, executor="batch")
    with pytest.raises(InvalidInputError, match="'far' is in an image of the cloud only; install its package"):
        check_engine("far", settings=settings, executor="local")
    with pytest.raises(
        InvalidInputError, match=r"'wieghted' is unknown; did you mean 'weighted'\? Possible: auto, none, mean"
    ):
        check_engine("wieghted", settings=settings, executor="local")
    with pytest.raises(InvalidInputError, match=r"'magic' is unknown\. Possible: "):
        check_engine("magic", settings=settings, executor="local")


@pytest.mark.slow
def test_check_passes_the_worked_example(install, monkeypatch, capsys):
    shutil.copy(EXAMPLE / "nearest_type.py", install({"nearest_type": "nearest_type:NearestType"}))
    code, said = _run(monkeypatch, capsys, "engine", "check", "nearest_type", "--json")
    assert code == 0, said.err
    assert json.loads(said.out)["citation"] == "Example engine of HAYSTACK's documentation, version 1.0"


@pytest.mark.slow
def test_check_says_what_is_wrong_and_what_is_expected(install, monkeypatch, capsys):
    install({"bad": "foreign_code:engine"}, source="raise ImportError('no module named weights')")
    code, said = _run(monkeypatch, capsys, "engine", "check", "bad")
    assert code == 2
    assert (
        "engine 'bad' (foreign 2.1) failed: ImportError: no module named weights (foreign_code.py, line 1)" in said.err
    )
