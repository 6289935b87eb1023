import re

import pandas as pd

from haystack_kernel.report.html import MISSING
from haystack_kernel.report.tables import N_GENES_SHOWN, cell_table, gene_table, pathway_table


def rows(made):
    body = made.split("<tbody>")[1]
    return [
        [re.sub(r"<[^>]+>", "", cell).strip() for cell in re.findall(r"<t[dh].*?</t[dh]>", row)]
        for row in re.findall(r"<tr>(.*?)</tr>", body)
    ]


def test_gene_table_orders_by_change_and_marks_calls_expectations_and_flips(de):
    found = rows(gene_table(de, expected={"UP1": 1, "DOWN1": -1, "FLAT1": 1}))
    assert [row[0] for row in found] == ["UP1", "DOWN1", "UP2", "DOWN2", "FLAT1", "FLAT2", "FLAT3"]
    assert [row[1] for row in found] == ["▲&nbsp;rises", "▼&nbsp;falls", "▲&nbsp;rises", "▼&nbsp;falls", "", "", ""]
    assert [row[2] for row in found] == ["▲", "▼", "", "", "▲", "", ""]
    assert found[0][3:8] == ["6.000", "3.000", "0.600", "0.800", "1e-39"]
    assert found[3][8] == "call differs between control strategies"


def test_gene_table_says_which_genes_were_not_predicted(de):
    found = rows(gene_table(de.assign(padded=de["gene"] == "FLAT1").drop(columns="flips"), expected={}))
    assert {row[0]: row[8] for row in found if row[8]} == {"FLAT1": "not predicted"}


def test_gene_table_shows_interval_and_probabilities_where_they_are_known(de):
    known = de.assign(effect_low=1.5, effect_high=2.5, lfsr=0.001, prob_de=0.99)
    found = rows(gene_table(known, expected={}))
    assert found[0][4:9] == ["3.000", "1.500", "2.500", "0.001", "0.990"]
    assert len(rows(gene_table(de, expected={}))[0]) == len(found[0]) - 4


def test_gene_table_stays_short_and_tells_how_many_there_are(de):
    many = pd.concat([de.head(7)] * 100, ignore_index=True)
    made = gene_table(many, expected={})
    assert len(rows(made)) == N_GENES_SHOWN
    assert "300 of 700 tested genes" in made


def test_pathway_table_shows_the_further_readings_and_their_background(pathways):
    further = {"ulm_t": 7.5, "ulm_padj": 0.01, "ora_log_odds": 2.0, "ora_padj": 0.02, "n_background": 1234}
    text = pathway_table(pathways.assign(**further))
    assert rows(text)[0][-5:] == ["ISG15, MX1", "7.500", "0.010", "2.000", "0.020"]
    assert "all 1,234 tested genes" in text


def test_pathway_table_keeps_what_could_not_be_computed(pathways):
    found = rows(pathway_table(pathways))
    assert found[0] == [
        "type I interferon response", "10.0", "yes", "1.500", "1e-4", "0.004", "1e-4", "49", "ISG15, MX1"
    ]  # fmt: skip
    assert found[3] == ["empty pathway", "not computed", "no", MISSING, MISSING, MISSING, MISSING, "0", ""]
    earlier = rows(pathway_table(pathways.drop(columns="p_donors")))  # runs that were made before donors were tested
    assert earlier[0][5] == MISSING


def test_cell_table_counts_cells_and_donors_by_role(prompts):
    assert rows(cell_table(prompts)) == [
        ["query", "monocyte", "none", "dataset", "1", "1"],
        ["prompt", "B cell", "IFN-beta", "dataset", "3", "2"],
        ["control", "B cell", "none", "dataset", "2", "1"],
    ]


def test_tables_escape_names_of_genes_pathways_and_cells(de, pathways, prompts):
    nasty = "<img src=x onerror=alert(1)>"
    for made in (
        gene_table(de.assign(gene=nasty), expected={}),
        pathway_table(pathways.assign(pathway=nasty, leading_genes=nasty)),
        cell_table(prompts.assign(cell_type_name=nasty, dataset=nasty, perturbation_name=nasty)),
    ):
        assert nasty not in made
        assert "&lt;img src=x onerror=alert(1)&gt;" in made
