"""What a language model might answer to the questions, written by hand with the questions themselves.

No language model was asked: these answers drive the checks, the repair round, the transcript and its replay. They say
nothing about how well a model reads. Seven questions have a faulty first answer, which is mended when it is told.
"""

import json
from pathlib import Path

from haystack_kernel.planners.check import clean_text
from tests.servers import messages

NOTHING_SAID = {
    "cells": None,
    "treatment": None,
    "tissue": None,
    "disease": None,
    "donor": "",
    "reference_donor": "",
    "target_dataset": "",
    "reference_dataset": "",
    "condition": "",
    "compare_with_query": False,
    "doubts": [],
    "refusal": None,
    "clarification": None,
}


def replies():
    """Question -> its answers in order; none where the program itself refuses before it asks."""
    written = json.loads(Path(__file__).with_name("answers.json").read_text(encoding="utf-8"))
    return {item["question"]: item["replies"] for item in written}


def answering(known=None):
    """A model for the local server that gives the written answers: the next one after each repair."""
    known = replies() if known is None else known

    def reply(body):
        shown = "\n".join(messages.shown_strings(body))
        question = next(text for text in known if json.dumps(clean_text(text), ensure_ascii=False)[1:-1] in shown)
        n_before = sum(message["role"] == "assistant" for message in body["messages"])
        said = known[question][min(n_before, len(known[question]) - 1)]
        return messages.says(said if isinstance(said, str) else {**NOTHING_SAID, **said})

    return reply
