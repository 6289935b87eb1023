"""Pins and bans, by key and by criteria, on the designed blood study."""

import pytest

from haystack_kernel.errors import InvalidInputError, NoCandidateError
from haystack_kernel.retrieval import choose_query_cells, search_candidates
from haystack_kernel.schema import HiddenPair, RetrievalSettings, RunConfig

CD4, B, CD14, CD16, DC = "CL:0000624", "CL:0000236", "CL:0001054", "CL:0002396", "CL:0000451"


@pytest.fixture
def find(blood, knowledge, ask):
    def run(cl_id=CD16, *, pin=(), ban=(), n_top=50, max_candidates=50, **config):
        return search_candidates(
            ask(cl_id),
            atlas=blood,
            knowledge=knowledge,
            settings=RetrievalSettings(n_top=n_top, max_candidates=max_candidates),
            config=RunConfig(atlases=("tiny",), pin=pin, ban=ban, **config),
        )

    return run


def keys_of(found):
    return [one.key for one in found]


def test_pin_by_key_comes_first_says_why_and_survives_every_limit(find):
    key = f"tiny/far/IFN-beta/{B}"
    first, *_ = found = find(pin=(key,), n_top=1, max_candidates=1)
    assert keys_of(found) == [key]
    assert first.pinned
    assert first.reason.startswith("pinned by you; 30 B cells of dataset far")


def test_pins_keep_the_order_given(find):
    pins = (f"tiny/pbmc/IFN-beta/{DC}", f"tiny/pbmc/IFN-beta/{B}")
    assert keys_of(find(pin=pins))[:2] == list(pins)
    assert [one.pinned for one in find(pin=pins)[:3]] == [True, True, False]


def test_pin_by_criteria_takes_all_that_fit(find):
    pinned = [one.key for one in find(pin=("dataset=far,cell_type=B cell",)) if one.pinned]
    assert pinned == [f"tiny/far/IFN-beta/{B}"]
    assert {one.prompt.dataset for one in find(pin=("dataset=FAR",)) if one.pinned} == {"far"}


@pytest.mark.parametrize(
    ("ban", "gone"),
    [
        (f"tiny/pbmc/IFN-beta/{CD14}", lambda one: one.key == f"tiny/pbmc/IFN-beta/{CD14}"),
        ("dataset=pbmc", lambda one: one.prompt.dataset == "pbmc"),
        ("dataset = PBMC , cell_type=CD4 T", lambda one: one.key == f"tiny/pbmc/IFN-beta/{CD4}"),
        ("cell_type=CD14-positive monocyte", lambda one: CD14 in one.prompt.cell_type_ids),
        ("cell_type=CD4-positive, alpha-beta T cell", lambda one: CD4 in one.prompt.cell_type_ids),
        ("tissue=blood,dataset=drug", lambda one: one.prompt.dataset == "drug"),
    ],
)
def test_ban_removes_what_it_names_and_nothing_else(find, ban, gone):
    before, after = find(), find(ban=(ban,))
    assert any(gone(one) for one in before)
    assert set(keys_of(after)) == {one.key for one in before if not gone(one)}


def test_ban_of_a_donor_takes_its_cells_out_of_every_set(find, blood):
    assert any("pbmc:d1" in one.prompt.donor_ids for one in find())
    after = find(ban=("donor=d1",))
    assert after
    for one in after:
        assert "pbmc:d1" not in set(blood.select(one.prompt)["donor_id"])


def test_ban_of_a_strategy_removes_its_sets(find):
    with pytest.raises(NoCandidateError, match="banned"):
        find(ban=("strategy=direct", "strategy=ontology", "strategy=mechanistic", "strategy=semantic"))


def test_ban_never_touches_the_query_cells(blood, knowledge, ask):
    config = RunConfig(atlases=("tiny",), ban=("dataset=pbmc",))
    chosen = choose_query_cells(ask(CD16), atlas=blood, knowledge=knowledge, candidates=(), config=config)
    assert (chosen.dataset, chosen.n_cells) == ("pbmc", 42)


def test_unknown_keys_are_refused_with_those_there_are(find):
    with pytest.raises(InvalidInputError, match=r"cannot pin zzz.*possible here: tiny/drug.*FIELD=VALUE"):
        find(pin=("zzz",))
    with pytest.raises(InvalidInputError, match=r"cannot ban tiny/pbmc/IFN-bta/.*nearest of \d+: .*tiny/pbmc/IFN-beta"):
        find(ban=(f"tiny/pbmc/IFN-bta/{CD14}",))


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ("dataset=kang", r"no dataset 'kang'; they hold (?=.*pbmc)(?=.*drug)far"),
        ("cell_type=neuron", r"no cell type 'neuron'; they hold .*B cell"),
        ("donor=9", r"no donor '9'; they hold far:x1"),
        ("strategy=magic", r"no strategy 'magic'; there are direct, mechanistic"),
    ],
)
@pytest.mark.parametrize("what", ["pin", "ban"])
def test_criteria_that_name_nothing_are_refused_with_what_exists(find, what, rule, says):
    with pytest.raises(InvalidInputError, match=f"cannot {what} '{rule}': .*{says}"):
        find(**{what: (rule,)})


def test_the_same_text_pinned_and_banned_is_refused(find):
    with pytest.raises(InvalidInputError, match="pinned and banned at once: dataset=far"):
        find(pin=("dataset=far",), ban=("dataset=far",))


def test_a_pin_cannot_bring_back_what_is_hidden_or_banned(find):
    hide = (HiddenPair(cell_type_id=CD14, perturbation="IFN-beta"),)
    with pytest.raises(InvalidInputError, match="cannot pin"):
        find(pin=(f"tiny/pbmc/IFN-beta/{CD14}",), hide=hide)
    with pytest.raises(InvalidInputError, match="cannot pin"):
        find(pin=(f"tiny/pbmc/IFN-beta/{CD14}",), ban=("dataset=pbmc",))


def test_a_ban_may_name_what_is_hidden(find):
    hide = (HiddenPair(cell_type_id=CD14, perturbation="IFN-beta"),)
    assert find(ban=(f"tiny/pbmc/IFN-beta/{CD14}",), hide=hide)
