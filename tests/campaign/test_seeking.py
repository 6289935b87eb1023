"""Reverse questions on the tiny atlas, whose only measured response is that to IFN-beta."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from haystack_kernel.campaign.seeking import seek
from haystack_kernel.campaign.states import read_state
from haystack_kernel.config.connect import connect
from haystack_kernel.errors import InvalidInputError
from haystack_kernel.knowledge import load_knowledge

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ports(settings_in, tmp_path_factory):
    return connect(settings_in(tmp_path_factory.mktemp("seek")))


@pytest.fixture(scope="module")
def sought(ports):
    return seek("Which cytokine moves CD4 T cells toward IFN-beta-treated monocytes?", ports=ports, n_draws=199)


def test_the_treatment_of_another_type_is_found_and_named_as_the_one_that_makes_the_state(sought):
    row = sought.table.iloc[0]
    assert (row["rank"], row["perturbation"], row["source"]) == (1, "IFN-beta", "measured")
    assert row["toward_low"] > 0.5
    assert row["p_toward"] == pytest.approx(1 / 200)
    assert row["note"] == "the treatment that makes the target"
    assert any(one.startswith("Toward it, at a false discovery rate of 10 %: IFN-beta") for one in sought.words)


def test_few_effects_are_said_to_make_p_values_uncertain_and_what_was_not_searched_is_named(sought):
    assert any("do not show what genes move together" in one for one in sought.words)
    assert any("differences between cell types are no part of it" in one for one in sought.words)


def test_cells_that_are_the_state_itself_are_shown_but_not_ranked(ports):
    found = seek("Which treatment moves CD4 T cells toward IFN-beta-treated CD4 T cells?", ports=ports, n_draws=19)
    row = found.table.iloc[0]
    assert (row["rank"], row["perturbation"]) == (0, "IFN-beta")
    assert np.isnan(row["q_toward"])
    assert row["note"].startswith("these cells are the target itself")
    assert found.words[0] == "Nothing could be ranked among 1 effects in CD4-positive, alpha-beta T cells."


def test_predicted_effects_are_searched_beside_and_marked(ports):
    import anndata as ad

    response = load_knowledge().perturbations["TNF-alpha"].response
    genes = list(response)
    made = ad.AnnData(np.array([[1.0 * response[gene] for gene in genes]]), var=pd.DataFrame(index=genes))
    made.layers["effect_sd"] = np.full(made.shape, 0.1)
    made.obs_names = ["0001"]
    facts = {"perturbation": ["TNF-alpha"], "cell_type": ["CD4-positive, alpha-beta T cell"]}
    made.obs = pd.DataFrame(facts, index=made.obs_names).assign(cell_type_id="CL:0000624", engine="weighted")
    question = "Which cytokine moves CD4 T cells toward TNF signalling via NF-kB?"
    found = seek(question, screen=made, ports=ports, n_draws=199)
    assert found.table[["perturbation", "source"]].to_numpy().tolist()[0] == ["TNF-alpha", "predicted"]
    assert found.table[["perturbation", "source"]].to_numpy().tolist()[1] == ["IFN-beta", "measured"]


def test_a_state_of_ones_own_is_read_from_cells_genes_and_gene_sets(ports, tiny_h5ad, tmp_path):
    response = load_knowledge().perturbations["IFN-beta"].response
    gmt = tmp_path / "sets.gmt"
    up = [gene for gene, sign in response.items() if sign > 0]
    gmt.write_text("IFN\tup genes\t" + "\t".join(up) + "\nOTHER\tother\tCD3E\tCD4\tCD8A\tLYZ\n")
    table = tmp_path / "de.csv"
    pd.DataFrame({"gene": list(response), "log2fc": list(response.values())}).to_csv(table, index=False)
    cells = seek("Which treatment moves CD4 T cells toward my state?", state=tiny_h5ad, ports=ports, n_draws=199)
    assert cells.table[["perturbation", "p_toward"]].to_numpy().tolist() == [["IFN-beta", 1 / 200]]
    for state, options in ((response, {}), (gmt, {"gene_set": "ifn"}), (table, {})):
        read = read_state(state, knowledge=load_knowledge(), **options)
        assert read.kind == "genes"
        assert cells.state.direction.reindex(read.direction[read.direction > 0].index).mean() > 0.5
    with pytest.raises(InvalidInputError, match="holds 2 gene sets; name one of them, such as IFN, OTHER"):
        read_state(gmt, knowledge=load_knowledge())
    with pytest.raises(InvalidInputError, match="it needs a column 'gene' and one of effect, delta, log2fc"):
        read_state(tiny_table(tmp_path), knowledge=load_knowledge())


def tiny_table(folder):
    path = folder / "other.csv"
    pd.DataFrame({"name": ["ISG15"], "value": [1.0]}).to_csv(path, index=False)
    return path


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"ISG15": 1.0, "NOGENE": 1.0}, "needs 3 genes, and the genes given names 1; not understood: NOGENE"),
        (3, "a target state cannot be read from int"),
    ],
)
def test_a_state_that_says_nothing_is_refused(state, message):
    with pytest.raises(InvalidInputError, match=message):
        read_state(state, knowledge=load_knowledge())


def test_cells_in_which_nothing_was_measured_are_refused_with_what_can_be_done(ports):
    with pytest.raises(InvalidInputError, match=r"nothing to search for natural killer cells .*haystack screen"):
        seek("Which cytokine moves NK cells toward IFN-beta-treated monocytes?", ports=ports)


def test_hidden_pairs_are_not_searched(ports):
    with pytest.raises(InvalidInputError, match="nothing to search"):
        seek(
            "Which cytokine moves CD4 T cells toward IFN-beta-treated monocytes?",
            hide=["CD4 T cell:IFN-beta"],
            ports=ports,
        )


def test_markup_in_words_of_the_user_is_escaped(sought):
    query = sought.query.model_copy(update={"target_kind": "given", "target": "<b>mine</b>", "unused": ("<i>",)})
    shown = dataclasses.replace(sought, query=query)._repr_html_()
    assert "<b>mine" not in shown
    assert "&lt;b&gt;mine" in shown
    assert "<i>" not in shown
