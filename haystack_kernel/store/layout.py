"""Names of every file in a run folder. No other module writes them out.

In: a round's number, a role, a task. Out: paths relative to the run folder ``<storage>/runs/<run_id>/``::

    run.ipynb  report.html             executed notebook, offline page
    run.json  summary.json             copies derived from the newest record
    record/0001.json …                 the record after every step, created exclusively
    lease/0001.json …                  who works on the run, one file per worker
    predictions.h5ad  de.csv  …        the best round's files (PUBLISHED), candidates.csv
    inputs/                            cells that were given in memory, each named after its content
    rounds/<n>/                        cells by role, manifest, outputs, tables
    jobs/<job id>/                     attempts of cloud jobs and what each cost
    planner/0001.json …                requests to a language model, with answers and cost; transcript.json: all of them
    access.json                        whose run it is and with whom it is shared, where a service serves it
    told/0001.json …                   that the run's end at that record was told, created exclusively

of the folder of a back-test, ``<storage>/campaigns/<id>``::

    plan.json  results.csv             what it does, and every pair with every engine
    manifest-<k>.json                  the tasks of its k-th job
    pairs/<n>/                         cells by role, truth, outputs, how near they came
    calibrations/                      what it says of each engine

of the folder of a seal, ``<storage>/seals/<id>``::

    seal.json                          digests of a prediction or campaign, with the date
    outcomes/<id>.json                 what was measured afterwards, and how near the prediction came

of the folder of a screen, which lies beside them::

    plan.json  results.csv             what it asks, and every question with what was found
    effects.h5ad                       questions by genes: expected effects with their errors
    manifest-<k>.json                  the tasks of its k-th job
    questions/<n>/                     cells by role, outputs, the score of the prediction

and of the files of a storage that belong to no run: ``<storage>/index/`` (the runs of the storage in one file, see
:mod:`haystack_kernel.store.index`) and ``<storage>/people/`` (what a service lets each person do).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from haystack_kernel import keys

if TYPE_CHECKING:
    from haystack_kernel.schema.run import RoundStep

RUNS = "runs"  # folder of the run folders in a storage
CAMPAIGNS = "campaigns"  # folder of the campaign folders, whose jobs lie as those of a run
SEALS = "seals"  # folder of the folders of sealed predictions
INDEX = "index"  # folder of the index of all runs
INDEX_FILE = f"{INDEX}/all.json.gz"
CHANGED = f"{INDEX}/changed"  # one empty file for each change that the index does not hold yet
PEOPLE = "people"  # folder of what a service reserved for each person
NOTEBOOK = "run.ipynb"
REPORT = "report.html"
GALLERY = "gallery.html"  # of a storage: all its runs on one page
NEWEST = "run.json"
SUMMARY = "summary.json"
ACCESS = "access.json"
TOLD = "told"  # folder of the marks that an end of the run was told
RECORDS = "record"
LEASES = "lease"
ROUNDS = "rounds"
INPUTS = "inputs"  # also of the cache, before a run has a folder
JOBS = "jobs"
CALLS = "planner"  # folder of the requests to a language model
OUTPUTS = "outputs"

CANDIDATES = "candidates.csv"
CITATIONS = "citations.json"
READINGS = "readings.json"  # of a round: what a language model read in its papers
DE = "de.csv"
EMBEDDING = "embedding.csv"
MANIFEST = "manifest.json"
PATHWAYS = "pathways.csv"
PREDICTIONS = "predictions.h5ad"
PROMPTS = "prompts.csv"
PAPERS = "papers.json"  # of the run: the search that all rounds are scored with; of a round: on its predicted genes
REFERENCE = "reference.h5ad"
TRANSCRIPT = "transcript.json"  # what planner replay reads

PLAN = "plan.json"  # of a back-test or a screen, in the campaign's folder
PAIRS = "pairs"  # folder of one folder for each pair that is hidden, predicted and compared
PREPARED = "prepared.json"  # of a pair: its cells are whole, and what they are
OTHERS = "others"  # cells of the pair's type under other treatments
TREATMENTS = "treatments"  # cells of other treatments in types of prompt and query, with their control cells
TRUTH, TRUTH_CONTROL = "truth", "truth-control"
NULL, NULL_CONTROL = "null", "null-control"  # control cells in two halves: a prompt that shows no effect
JUDGED = "judged.npz"  # of a pair: how near each engine came
RESULTS = "results.csv"
QUESTIONS = "questions"  # folder of one folder for each question of a screen
EFFECTS = "effects.h5ad"
CALIBRATIONS = "calibrations"  # folder of what back-tests say, in a campaign's and in an atlas's folder

SEAL = "seal.json"
OUTCOMES = "outcomes"  # folder of what was measured after a prediction was sealed: in a seal's and in an atlas's folder

PUBLISHED = (PREDICTIONS, DE, PATHWAYS, PROMPTS, EMBEDDING)  # copied from the best round; CITATIONS where there are any
DERIVED = (NEWEST, SUMMARY)
ROLES = (keys.PROMPT, keys.CONTROL, keys.QUERY)  # of the cells that a round reads from the atlases


def job_manifest(number: int) -> str:
    """Path of the manifest of a campaign's job; numbers start at 1."""
    stem, _, suffix = MANIFEST.partition(".")
    return f"{stem}-{number}.{suffix}"


def record_file(serial: int) -> str:
    """Path of a record; serials start at 1."""
    return f"{RECORDS}/{serial:04d}.json"


def change_file(run_id: str, kind: str, serial: int) -> str:
    """Path in the storage of the mark that a run's record or access changed; the name is never used twice."""
    return f"{CHANGED}/{run_id}.{kind}{serial}"


def lease_file(number: int) -> str:
    """Path of a worker's lease; numbers start at 1."""
    return f"{LEASES}/{number:04d}.json"


def told_file(serial: int) -> str:
    """Path of the mark that an end of the run was told, by the number of the record that ended it."""
    return f"{TOLD}/{serial:04d}.json"


def round_folder(number: int) -> str:
    """Folder of one round."""
    return f"{ROUNDS}/{number}"


def round_file(number: int, name: str) -> str:
    """Path of a file of one round, e.g. ``round_file(1, DE)``."""
    return f"{round_folder(number)}/{name}"


def cells_file(folder: str, role: str) -> str:
    """Path of the cells of one role in a round's folder, which may also be a whole address."""
    return f"{folder}/{role}.h5ad"


def output_file(folder: str, task: str) -> str:
    """Path of a task's output in a round's folder, which may also be a whole address."""
    return f"{folder}/{OUTPUTS}/{task}.h5ad"


def job_folder(job_id: str) -> str:
    """Folder of one job's attempts."""
    return f"{JOBS}/{job_id}"


def call_file(number: int) -> str:
    """Path of one request to a language model; numbers start at 1."""
    return f"{CALLS}/{number:04d}.json"


def step_of(path: str) -> RoundStep | None:
    """Step of a round that wrote a file, by its path in the run folder; None for a file that no round wrote."""
    if path in {REFERENCE, PAPERS}:  # written when the first round is scored, and read again by the others
        return "ground"
    folder, _, inside = path.removeprefix(f"{ROUNDS}/").partition("/")
    if not path.startswith(f"{ROUNDS}/") or not inside:
        return None
    if path in {cells_file(f"{ROUNDS}/{folder}", role) for role in (*ROLES, TREATMENTS)}:
        return "cells"
    return "predict" if inside == MANIFEST or inside.startswith(f"{OUTPUTS}/") else "ground"


def pair_folder(number: int) -> str:
    """Folder of one pair of a back-test; numbers start at 1."""
    return f"{PAIRS}/{number:04d}"


def question_folder(number: int) -> str:
    """Folder of one question of a screen; numbers start at 1."""
    return f"{QUESTIONS}/{number:04d}"


def calibration_file(engine: str, model: str = "") -> str:
    """Path of an engine's calibration in the folder of its atlas or back-test; ``model`` is the sha256 of weights."""
    return f"{CALIBRATIONS}/{engine}{'-' if model else ''}{model[:12]}.json"


def outcome_file(outcome: str) -> str:
    """Path of an outcome in the folder of its seal, or of the atlas whose calibrations count it."""
    return f"{OUTCOMES}/{outcome}.json"


def is_record(path: str) -> bool:
    """Whether a path is part of the run's record, which is never deleted."""
    return path.startswith(f"{RECORDS}/") or path in (*DERIVED, ACCESS)
