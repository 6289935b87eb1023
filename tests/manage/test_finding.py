"""Words are found in the runs that a person may see, as a look at each of them would."""

import random

from haystack_kernel.manage.finding import VisibleRuns
from haystack_kernel.schema import Access, RunSummary
from haystack_kernel.store import IndexedRun

WORDS = ("B cell", "b", "ifn", "beta", "ß", "0", "1", "xyz", "t cell\nrun", "\0", "straße", "run-2026", " ")


def rows_of(record, clock, *, seed):
    draw = random.Random(seed)
    made = []
    for number in range(60):
        question = " ".join(draw.choices(("B", "cell", "IFN-beta", "Straße", "", "T", "respond?"), k=draw.randrange(7)))
        run = record.model_copy(update={"run_id": f"run-20260102t{number:06d}-abcdef", "question": question or "?"})
        access = Access(
            owner=draw.choice(("ada", "ben")),
            submitted_at=clock.now(),
            everyone=draw.random() < 0.1,
            shared_with=("eve",) if draw.random() < 0.2 else (),
        )
        made.append(IndexedRun(RunSummary.of(run), access if draw.random() < 0.9 else None))
    return made


def test_words_are_found_as_by_a_look_at_each_row(record, clock):
    for seed in range(5):
        rows, draw = rows_of(record, clock, seed=seed), random.Random(seed)
        for person in (None, "ada", "eve", "nobody"):
            may = [
                row for row in rows if person is None or (row.access and row.access.lets_read(person, now=clock.now()))
            ]
            visible = VisibleRuns(rows, person=person, now=clock.now())
            assert list(visible.rows) == may
            asked = [("", "", "", ""), *((word.casefold(), "", "", "") for word in WORDS)]
            asked += [tuple(draw.choice(("", "", "b", "ada", "cell")) for _ in range(4)) for _ in range(20)]
            for words in asked:
                wanted = [row for row in may if all(word in text for word, text in zip(words, row.words, strict=True))]
                assert list(visible.holding(words)) == wanted, words
