"""Commands of README.md and docs/ are real: each is parsed, and executed on a small atlas or listed with a reason."""

import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
QUESTION = "How would B cells respond to IFN-beta?"

NOT_EXECUTED = {  # pattern of a command -> why it is parsed or looked up, but not executed here
    r"make ": "the targets are checked by tests/test_architecture.py",
    r"pip install ": "would install from the network; the extras are checked here",
    r"gcloud ": "another program",
    r"haystack atlas build gs:": "needs a bucket: tests/atlas/test_mirror.py, tests/atlas/sources/",
    r"docker/gcp/": "tests/test_google_cloud.py",
    r"haystack run .*lung fibroblasts": "asks the demo atlas, which takes half a minute: tests/test_stack_run.py",
    r"haystack (run|submit|resume|orphans) .*gs://": "needs a bucket: tests/test_bucket_runs.py, tests/jobs/batch/",
    r"haystack submit ": "tests/manage/test_submission.py",
    r"(\w+=\S+ )*haystack serve": "serves until it is stopped: tests/service/",
    r"haystack mcp --http": "serves until it is stopped: tests/mcp/",
    r"haystack run .*(--hide|--ban|--engine|--no-literature|--query-h5ad|--atlas mine)": "one run is enough to execute",
    r"haystack (resume|fork) RUN_ID$": "tests/test_kill.py, tests/manage/test_forking.py",
    r"haystack run .*--planner": "tests/planners/claude/test_run.py",
    r"haystack resume RUN_ID --planner": "tests/planners/claude/test_asking.py",
    r"haystack seek .*(--state|--out)": "needs files: tests/campaign/test_seeking.py and tests/cli/test_seek.py",
    r"haystack seek ": "measures the whole demo atlas: tests/cli/test_seek.py asks a small one",
    r"haystack next ": "needs a finished screen: tests/campaign/test_next.py runs the command on a table",
    r"haystack seal ": "needs a finished run: tests/campaign/test_sealing.py, tests/cli/test_seal.py",
    r"haystack leaderboard ": "needs a back-test: tests/backtest/test_work.py, tests/campaign/test_board.py",
    r"haystack outcome ": "needs a sealed run: tests/campaign/test_outcome.py",
    r"haystack backtest demo": "takes minutes: tests/backtest/test_work.py runs the command on a small atlas",
    r"haystack screen ": "takes minutes on the demo atlas: tests/campaign/test_screening.py",
    r"haystack drill ": "tests/campaign/test_screening.py",
    r"found = haystack\.campaign": "tests/campaign/test_next.py",
    r"screen = haystack\.campaign": "tests/campaign/test_screening.py, tests/test_notebooks.py",
    r"haystack engine check": "tests/cli/test_engine.py",
    r"haystack doctor": "its checks read this machine: tests/manage/test_doctor.py",
    r"haystack knowledge add cl.obo": "tests/knowledge/test_obo.py",
    r"haystack model (convert|generate)": "needs a checkpoint of its own: tests/inference/stack/test_command_line.py",
    r"haystack --": "tests/cli/test_cli.py",
    r"papermill ": "tests/jupyter/test_engine.py",
    r"jupyter nbconvert ": "tests/jupyter/test_exporter.py",
    r"python -m inference.run_inference ": "tests/inference/test_run_inference.py",
    r"(\w+=\S+ )*python (tests/benchmarks/|tools/|-m tools\.)": "measures for minutes or hours",
    r"%load_ext|run = %ask": "tests/jupyter/test_magic.py",
    r"predicted = haystack\.predict": "the same lines are notebooks/anndata.ipynb: tests/test_notebooks.py",
    r"explorer = run\.explore\(": "tests/explorer/",
    r"run = haystack\.ask|haystack\.(score|export|atlas)\b": "tests/test_anndata.py, tests/test_export.py",
}


def blocks(path, *languages):
    return [text for language, text in BLOCK.findall(path.read_text(encoding="utf-8")) if language in languages]


def commands(path):
    """Commands of a page, one string each: continued lines joined, comments out."""
    for text in blocks(path, "bash"):
        for line in text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words:
                yield re.sub(r"\s+", " ", re.sub(r"\s#.*", "", line) if words != shlex.split(line) else line).strip()


ALL = [(path.name, command) for path in PAGES for command in commands(path)]


def is_executed(command):
    return not any(re.match(pattern, command) for pattern in NOT_EXECUTED)


def test_every_block_has_a_language_and_every_reason_a_command():
    assert len(ALL) > 50
    assert not [
        (path.name, text) for path in PAGES for language, text in BLOCK.findall(path.read_text()) if not language
    ]
    code = [line for path in PAGES for text in blocks(path, "python") for line in text.splitlines()]
    for pattern in NOT_EXECUTED:
        assert any(re.match(pattern, item) for item in [*code, *(command for _, command in ALL)]), pattern


def test_every_haystack_command_is_one_that_the_program_understands():
    """Parsed by the program itself, which does nothing of it."""
    from typer.main import get_command

    from haystack_kernel.cli import app

    root, wrong = get_command(app), []
    for page, command in ALL:
        words = shlex.split(command)
        if words[0] != "haystack" or words[1].startswith("--"):
            continue
        context, group, rest = root.make_context("haystack", [words[1]], resilient_parsing=True), root, words[1:]
        while hasattr(group, "commands"):
            name, *rest = group.named(rest) if hasattr(group, "named") else rest
            group = group.get_command(context, name)
            if group is None:
                break
        try:
            if group is None:
                wrong.append(f"{page}: {command}: no such command")
            else:
                group.make_context(group.name, list(rest))
        except Exception as error:  # noqa: BLE001 - whatever the parser says
            wrong.append(f"{page}: {command}: {error}")
    assert not wrong, "\n".join(wrong)


def test_every_extra_file_and_setting_that_the_pages_name_exists():
    import tomllib

    from haystack_kernel.schema import Settings

    text = "\n".join(path.read_text(encoding="utf-8") for path in PAGES)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert set(re.findall(r'"\.\[(\w+)\]"', text)) <= extras.keys()
    named = set(re.findall(r"(?<![\w./])((?:tests|tools|inference|haystack_kernel|docker)/[\w./]+\.\w+)", text))
    assert len(named) > 5
    assert not [name for name in named if not (ROOT / name).exists()]
    links = [
        (path, link) for path in PAGES for link in re.findall(r"\]\(([\w./-]+)\)", path.read_text(encoding="utf-8"))
    ]
    assert not [(path.name, link) for path, link in links if not (path.parent / link).exists()]
    for name in set(re.findall(r"HAYSTACK_([A-Z0-9_]+)", text)) - {"", "_"}:
        model = Settings
        for part in name.lower().split("__"):
            assert part in model.model_fields, name
            model = model.model_fields[part].annotation


def test_the_counts_of_terms_in_the_pages_are_the_counts_of_the_tables_written_by_hand():
    from collections import Counter

    from haystack_kernel.knowledge import load_knowledge_from
    from haystack_kernel.knowledge.tables import PACKAGED

    known = load_knowledge_from(PACKAGED)
    kinds = Counter(item.type for item in known.perturbations.values())
    n = (len(known.cell_types), kinds["cytokine"], kinds["drug"], len(known.tissues), len(known.diseases))
    said = "{} cell types, {} cytokines, {} drugs, {} tissues and {} diseases".format(*n)
    for name in ("README.md", "docs/own-data.md"):
        assert said in re.sub(r"\s+", " ", (ROOT / name).read_text(encoding="utf-8"))
    assert f"{len(known.network):,} signed edges" in (ROOT / "docs" / "own-data.md").read_text(encoding="utf-8")


def test_the_readme_is_for_a_newcomer():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
    assert "make demo" in blocks(ROOT / "README.md", "bash")[0]


# --- executed -------------------------------------------------------------------------------------------------------


@pytest.fixture
def place(few_cells, tiny_h5ad, tmp_path, monkeypatch):
    """A folder with the files that the pages speak of, and settings of a small atlas."""
    from haystack_kernel.store import layout

    folder = tmp_path / "here"
    (folder / "new" / "place").mkdir(parents=True)
    for name in ("mine.h5ad", "kang.h5ad", "new/place/mine.h5ad", "my_cells.h5ad"):
        shutil.copy(tiny_h5ad, folder / name)
    shutil.copy(ROOT / "inference" / "models" / "demo.safetensors", folder / "stack.safetensors")
    shutil.copy(ROOT / "inference" / "models" / "demo.genes.json", folder / "genelist.json")
    (folder / "drugs.tsv").write_text("pert_iname\ttarget\nexamplinib\tJAK1\n", encoding="utf-8")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HAYSTACK_ATLAS_ROOT", str(tmp_path / "atlases"))
    monkeypatch.setenv("HAYSTACK_LITERATURE__ENABLED", "false")
    monkeypatch.delenv("HAYSTACK_ATLASES")
    return few_cells / layout.RUNS


@pytest.mark.slow
def test_the_other_commands_do_what_the_pages_say(place, monkeypatch, capsys):
    """Each distinct one once, in the order of the pages; RUN_ID is the run that the first one made, RUN_B its fork."""
    from haystack_kernel.cli import main

    def call(command):
        words = [ids.get(word, word) for word in shlex.split(command)]
        monkeypatch.setattr(sys, "argv", words)
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        assert not ended.value.code, f"{command}: {said.err}"
        return said.out

    todo = dict.fromkeys(command for _, command in ALL if is_executed(command))
    first = [command for command in todo if command.startswith(("haystack atlas init", "haystack atlas build"))]
    first.append(f'haystack run "{QUESTION}" --atlas kang')
    ids = {}
    for command in first:
        out = call(command)
        todo.pop(command)
    ids = {"RUN_ID": json.loads(out)["run_id"], "RUN_A": json.loads(out)["run_id"]}
    fork = next(command for command in todo if command.startswith("haystack fork"))
    ids["RUN_B"] = json.loads(call(fork))["run_id"]
    todo.pop(fork)
    answers = {command: call(command) for command in todo}
    assert len(answers) > 10
    assert all(answers.values())
    assert json.loads(answers["haystack status RUN_ID"])["status"] == "done"
    assert {path.name for path in place.iterdir()} == {ids["RUN_ID"], ids["RUN_B"]}
    for path in PAGES:
        names = {}  # what one block of a page defines, the next one uses
        for code in blocks(path, "python"):
            if all(map(is_executed, code.splitlines())):
                exec(compile(code, path.name, "exec"), names)
