"""Ask a planner the questions of ``questions.tsv`` and judge its readings; no test framework is needed for that.

In: ports, rows with what is right. Out: one verdict for each answer, and a table over all of them.
"""

import csv
import statistics
from dataclasses import dataclass
from pathlib import Path

from haystack_kernel import flow
from haystack_kernel.config.options import build_config
from haystack_kernel.errors import HaystackError, InvalidInputError
from haystack_kernel.run import new_record
from haystack_kernel.store import CallFolder

QUESTIONS = Path(__file__).with_name("questions.tsv")


def rows(path=QUESTIONS):
    """The questions: group (plain, worded, trap), what is right, and for a trap the word that turns it."""
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t"))


@dataclass(frozen=True)
class Given:
    """What a planner gave for a question: a query, a refusal, or a failure; and what that cost."""

    query: object = None
    refusal: str = ""
    failure: str = ""
    usd: float = 0.0
    calls: tuple = ()  # requests to a language model, with the answers

    @property
    def words(self):
        """The same as one line."""
        if self.query is None:
            return f"failed: {self.failure}" if self.failure else f"refused: {self.refusal}"
        asked = self.query.clarification
        return f"{self.query.reading}{f' [asks back: {asked.text}]' if asked else ''}"


def ask(ports, question, **options):
    """Have the planner of the options read a question, as the first step of a run does; nothing else of it is done."""
    record = new_record(question, run_id=None, config=build_config(ports.settings, **options), ports=ports)
    given = {}
    try:
        given["query"] = flow.perform(record, "understand", ports).query
    except InvalidInputError as error:
        given["refusal"] = str(error)
    except HaystackError as error:
        given["failure"] = f"{type(error).__name__}: {error}"
    calls = tuple(CallFolder(ports.store, record.run_id).calls)
    return Given(**given, usd=sum(call.usage.usd for call in calls if not call.is_free), calls=calls)


def ask_rules(planner, question):
    """Have the planner of rules read a question; it needs no run."""
    try:
        return Given(query=planner.understand(question).value)
    except InvalidInputError as error:
        return Given(refusal=str(error))


@dataclass(frozen=True)
class Verdict:
    """None where a measure does not apply to a question."""

    question: str
    group: str
    valid_ids: bool | None
    right: bool | None
    trap_kept: bool | None  # refused, asked back, or the word that turns the question is shown
    failed: bool
    usd: float


def judge(row, given, *, knowledge):
    """Hold an answer against what is right."""
    query, is_trap = given.query, row["group"] == "trap"
    kept = None
    if is_trap:
        kept = bool(given.refusal) or (query is not None and is_shown(query, row["trap"]))
    return Verdict(
        question=row["question"],
        group=row["group"],
        valid_ids=None if query is None else has_valid_ids(query, knowledge=knowledge),
        right=None if is_trap else query is not None and not differences(row, query),
        trap_kept=kept,
        failed=bool(given.failure),
        usd=given.usd,
    )


def is_shown(query, word):
    """Whether a word stands among those not used, in what is noted only, or in the treatment as taken."""
    taken = query.perturbation.name if query.perturbation else ""
    shown = (*query.unused, query.condition or "", taken)
    return query.clarification is not None or any(word.lower() in text.lower() for text in shown)


def differences(row, query):
    """Fields of a reading that are not what is right, as "field: got, not wanted"."""
    treatment = query.perturbation.name if query.perturbation else ""
    wrong = []
    if query.task_type != row["task_type"]:
        wrong.append(f"task: {query.task_type}, not {row['task_type']}")
    if query.cell_type_id not in row["cell_type_id"].split(";"):
        wrong.append(f"cells: {query.cell_type_id} {query.cell_type_name}, not {row['cell_type_id']}")
    if treatment != row["treatment"]:
        wrong.append(f"treatment: {treatment or 'none'}, not {row['treatment'] or 'none'}")
    for field in filter(None, row["fields"].split(";")):
        name, _, wanted = field.partition("=")
        if str(getattr(query, name)) != wanted:
            wrong.append(f"{name}: {getattr(query, name)}, not {wanted}")
    return wrong


def has_valid_ids(query, *, knowledge):
    """Whether every id of a reading is in the tables."""
    held = [
        (query.cell_type_id, knowledge.cell_types),
        (query.tissue_id, knowledge.tissues),
        (query.disease_id, knowledge.diseases),
        (query.perturbation.name if query.perturbation else None, knowledge.perturbations),
    ]
    return all(name is None or name in known for name, known in held)


def share(values):
    """ "n of m" of those that apply."""
    known = [value for value in values if value is not None]
    return f"{sum(known)} of {len(known)}" if known else "none asked"


def summary(verdicts, *, quotes=None):
    """Lines with the shares and the median cost of a question; ``quotes`` is (unproven, all)."""
    verdicts = list(verdicts)
    lines = {
        "readings with valid ids only": share(verdict.valid_ids for verdict in verdicts),
        "right readings, plain": share(item.right for item in verdicts if item.group == "plain"),
        "right readings, in other words": share(item.right for item in verdicts if item.group == "worded"),
        "traps refused, asked about or shown": share(verdict.trap_kept for verdict in verdicts),
        "answers that failed": share(verdict.failed for verdict in verdicts),
        "unproven quotes": f"{quotes[0]} of {quotes[1]}" if quotes else "none asked",
        "median cost of a question": f"{statistics.median(verdict.usd for verdict in verdicts):.4f} dollars",
    }
    return [f"{name:<38} {value}" for name, value in lines.items()]
