import math
import re

import pytest

from haystack_kernel import keys
from haystack_kernel.grounding.components.score import composite
from haystack_kernel.report import ReportBundle, render_report, score_table
from haystack_kernel.report.trust import trust_table
from haystack_kernel.schema import Aspect, Component, Confidence, Feedback

NAN = float("nan")
CONFIDENCE = Confidence(
    aspects=(
        Aspect(name="donors", value=0.75, words="3 of 4 donors of the prompt move the same way."),
        Aspect(name="null percentile", value=NAN, reason="not measured"),
    ),
    verdict="adds_nothing",
    verdict_words="STACK adds nothing here <b>.",
)
PERTURBATIONAL = {keys.PATHWAY: 0.25, keys.TARGET: 0.3, keys.LITERATURE: 0.25, keys.NETWORK: 0.2}
STATE = dict.fromkeys((keys.MARKER, keys.TISSUE_SIGNATURE, keys.DONOR_EFFECT, keys.CELL_TYPE_COHERENCE), 0.25)


def with_round(record, **changes):
    return record.model_copy(update={"rounds": (record.rounds[0].model_copy(update=changes),)})


def test_trust_table_when_judged_then_verdict_values_and_reasons_are_there_and_escaped(make_run):
    taught = Feedback(kind="unstable", sentence="calls hold in only 50% of seeds", action="wider_pool")
    page = trust_table(with_round(make_run(), confidence=CONFIDENCE, feedback=(taught,)))
    assert "STACK adds nothing here &lt;b&gt;." in page
    assert "3 of 4 donors" in page
    assert "0.75" in page
    assert "unavailable: not measured" in page
    assert "Round 1: calls hold in only 50% of seeds." in page


def test_trust_table_before_a_round_was_scored_then_a_sentence(failed_run):
    assert "Confidence unavailable" in trust_table(failed_run)


def test_score_when_one_component_cannot_be_computed_then_its_reason_is_read_and_its_weight_shared(make_run):
    for weights, gone in [(group, name) for group in (PERTURBATIONAL, STATE) for name in group]:
        values = dict(zip(weights, (9.0, 6.0, 4.0, 2.0), strict=True))
        components = [
            Component(name=name, weight=weight, score=NAN if name == gone else values[name], reason="no table is here")
            for name, weight in weights.items()
        ]
        judged = composite(components, donor_matched=True)
        rest = {name: weight for name, weight in weights.items() if name != gone}
        expected = sum(weight * values[name] for name, weight in rest.items()) / sum(rest.values())
        assert judged.value == pytest.approx(min(expected, 4 + 6 * sum(rest.values()))), gone
        section = score_table(with_round(make_run(), components=tuple(components), composite=judged))
        assert section.count("<tr") == 5
        assert gone.replace("_", " ") in section
        assert "no table is here" in section
        assert f"{1 - weights[gone]:.0%} of the weight allows at most" in section
        assert not re.search(r"\bnan\b", re.sub(r"<[^>]*>", " ", section), re.IGNORECASE)


@pytest.mark.slow
def test_report_when_no_component_can_be_computed_then_it_says_not_scored(make_run, tables):
    parts = tuple(
        Component(name=name, weight=weight, score=NAN, reason=f"why {name}") for name, weight in PERTURBATIONAL.items()
    )
    judged = composite(parts, donor_matched=True)
    assert math.isnan(judged.value)
    page = render_report(ReportBundle(record=with_round(make_run(), components=parts, composite=judged), tables=tables))
    assert "not scored" in page
    assert all(f"why {name}" in page for name in PERTURBATIONAL)
