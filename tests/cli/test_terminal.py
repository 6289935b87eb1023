"""Commands on a real terminal of 80 columns: readable text, and JSON when asked for."""

import fcntl
import json
import os
import pty
import select
import struct
import termios

import pytest

from haystack_kernel.run import open_run
from haystack_kernel.schema import Bill
from haystack_kernel.store import RunStore
from tests.workers import Program

pytestmark = pytest.mark.slow

QUESTION = "How would B cells respond to IFN-beta?"


@pytest.fixture
def terminal():
    """``terminal("status", run_id)`` -> exit code and the lines that appeared on the screen (stdout alone)."""

    def run(*arguments, columns=80):
        screen, side = pty.openpty()
        fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        program = Program(*map(str, arguments), out=os.ttyname(side), environment=environment)
        shown = b""
        while program.poll() is None or select.select([screen], [], [], 0)[0]:
            if select.select([screen], [], [], 0.05)[0]:
                shown += os.read(screen, 4096)
        os.close(side)  # not before: who reads what nobody can write to gets an error
        os.close(screen)
        program.communicate()
        return program.returncode, shown.decode().replace("\r\n", "\n").splitlines()

    return run


def test_status_list_and_gc_are_readable_and_fit(terminal, tiny_env):
    run = open_run(QUESTION).understand().cancel()
    code, lines = terminal("status", run.run_id)
    assert code == 0
    assert lines[:2] == [f"run       {run.run_id}", f"question  {QUESTION}"]
    assert lines[2] == "taken as  IFN-beta | B cell"
    assert lines[3].startswith("status    cancelled")
    assert f"next      haystack resume {run.run_id}" in lines
    assert "{" not in "".join(lines)
    code, lines = terminal("list")
    assert lines[0].split() == ["run_id", "status", "score", "rounds", "engine"]
    assert lines[1].split()[:2] == [run.run_id, "cancelled"]
    assert lines[2] == f"    {QUESTION}"
    assert max(map(len, lines)) <= 80
    code, lines = terminal("list", columns=200)
    assert lines[1].endswith(QUESTION)
    code, lines = terminal("gc")
    assert lines[-1].split()[:2] == ["(job", "scratch)"]


def test_status_tells_what_was_spent_on_what(terminal, tiny_env):
    run = open_run(QUESTION)
    bill = Bill(kind="orchestrator", job_id="o", attempt=1, machine="cpu", seconds=9, usd=0.004, state="succeeded")
    RunStore(str(tiny_env)).save(run.record.model_copy(update={"bills": (bill,)}))
    _, lines = terminal("status", run.run_id)
    assert "cost      0.004 USD (orchestrator)" in lines


def test_list_without_a_run_to_show_says_what_to_do_next(terminal, tiny_env):
    tiny_env.mkdir()
    code, lines = terminal("list")
    assert code == 0
    assert " ".join(lines) == f'Storage {tiny_env} holds no runs yet. Ask a question with `haystack run "…"`.'
    _, lines = terminal("list", "--status", "interrupted", "--storage", tiny_env)
    told = f"No run in {tiny_env} matches these filters; `haystack list --storage {tiny_env}` shows all runs."
    assert " ".join(lines) == told
    assert terminal("list", "--json") == (0, ["[]"])


def test_compare_and_atlas_info_are_tables_that_fit(terminal, tiny_env):
    one, other = (open_run(QUESTION, seed=seed).understand() for seed in (0, 5))
    code, lines = terminal("compare", one.run_id, other.run_id)
    assert code == 0
    place = lines.index("what  a  b")
    assert lines[place + 1] == "seed  0  5"
    assert max(map(len, lines)) <= 80
    code, lines = terminal("atlas", "info", "tiny")
    head = next(line for line in lines if line.startswith("name ") and "schema" in line)
    assert code == 0
    assert "source" not in head
    assert lines[lines.index(head) + 2].startswith("    /")  # the path has a line of its own


def test_no_line_of_a_help_is_cut(terminal):
    for group in ((), ("atlas",), ("knowledge",), ("model",)):
        code, lines = terminal(*group, "--help")
        assert code == 0
        assert not [line for line in lines if line.endswith("...") and not line.startswith("Usage")]


def test_json_on_a_terminal_is_the_line_of_a_pipe(terminal, call):
    run = open_run(QUESTION).understand().cancel()
    code, lines = terminal("status", run.run_id, "--json", columns=10_000)
    assert (code, len(lines)) == (0, 1)
    assert json.loads(lines[0]) == json.loads(call("status", run.run_id).out)


def test_resolve_names_terms_and_alternatives(terminal):
    code, lines = terminal("resolve", "How would CD4 T cells respond to interferon beta or wobblin?")
    assert code == 0
    assert [line for line in lines if "CD4 T cells" in line and "cell type" in line]
    assert [line for line in lines if line.startswith("'wobblin' may also mean:")]
    assert max(map(len, lines)) <= 80


def test_resolve_shows_what_a_question_is_taken_as_and_what_can_be_asked_instead(terminal):
    _, lines = terminal("resolve", "How would B cells of smokers respond to IFN-beta?")
    assert "taken as: IFN-beta | B cell; not used: 'smokers'" in lines
    _, lines = terminal("resolve", "How would B cells and monocytes respond to IFN-beta?")
    assert "`haystack run 'How would monocytes respond to IFN-beta?'`" in " ".join(lines)
