"""The commands seal and seal check: one JSON line, words for people, and exit codes that scripts can rely on."""

import json
import shutil
from pathlib import Path

import pytest

from haystack_kernel.store import layout

pytestmark = pytest.mark.slow


def test_seal_writes_a_file_that_check_reads_and_a_change_ends_with_1(call, tiny_env, finished, tmp_path):
    ports, record = finished
    kept = Path(ports.settings.storage) / layout.RUNS / record.run_id
    folder = shutil.copytree(kept, tiny_env / layout.RUNS / record.run_id)
    given = tmp_path / "given.json"
    made = json.loads(call("seal", record.run_id, "--out", given).out)
    assert json.loads(given.read_text()) == made
    assert json.loads(call("seal", "write", record.run_id).out) == made
    shown = call("seal", "--storage", tiny_env, record.run_id, "--table").out
    assert f"haystack outcome {made['id']}" in " ".join(shown.split())
    said = call("seal", "check", given)
    assert (said.code, json.loads(said.out)["ok"]) == (0, True)
    table = folder / layout.DE
    table.write_text(table.read_text().replace("True", "False", 1))
    said = call("seal", "check", made["id"], "--table")
    assert said.code == 1
    assert "CHANGED" in said.out
    assert call("seal", "check", "seal-0").code == 2
