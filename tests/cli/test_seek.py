"""The command seek: the table of a person and the JSON line of a program."""

import json

import pandas as pd
import pytest

pytestmark = pytest.mark.slow
QUESTION = "Which cytokine moves CD4 T cells toward IFN-beta-treated monocytes?"


def test_seek_prints_what_was_read_and_writes_the_table(call, tiny_env, tmp_path):
    out = tmp_path / "table.csv"
    shown = call("seek", QUESTION, "--table", "--out", out)
    assert shown.code == 0
    read = "Read as: which cytokine moves CD4-positive, alpha-beta T cell toward monocyte under IFN-beta"
    assert read in " ".join(shown.out.split())
    assert pd.read_csv(out)["perturbation"].tolist() == ["IFN-beta"]


def test_seek_in_a_pipe_is_one_line_of_json_and_refuses_with_2(call, tiny_env):
    value = json.loads(call("seek", QUESTION).out)
    assert value["table"][0]["perturbation"] == "IFN-beta"
    assert value["query"]["unused"] == []
    assert call("seek", "How would B cells respond to IFN-beta?").code == 2
