"""The packaged perturbation and pathway tables hold together, and agree with what is known and measured."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from haystack_kernel.knowledge import Knowledge, load_knowledge, perturbation_of, resolve

PARSE_PANEL = (  # the 90 cytokines of the Parse 10M PBMC data set, as its column `cytokine` writes them
    "4-1BBL ADSF APRIL BAFF C3a C5a CD27L CD30L CD40L CT-1 Decorin EGF EPO FGF-beta FLT3L FasL G-CSF GDNF GITRL GM-CSF "
    "HGF IFN-alpha1 IFN-beta IFN-epsilon IFN-gamma IFN-lambda1 IFN-lambda2 IFN-lambda3 IFN-omega IGF-1 IL-1-alpha "
    "IL-1-beta IL-10 IL-11 IL-12 IL-13 IL-15 IL-16 IL-17A IL-17B IL-17C IL-17D IL-17E IL-17F IL-18 IL-19 IL-1Ra IL-2 "
    "IL-20 IL-21 IL-22 IL-23 IL-24 IL-26 IL-27 IL-3 IL-31 IL-32-beta IL-33 IL-34 IL-35 IL-36-alpha IL-36Ra IL-4 IL-5 "
    "IL-6 IL-7 IL-8 IL-9 LIF LIGHT LT-alpha1-beta2 LT-alpha2-beta1 Leptin M-CSF Noggin OSM OX40L PRL PSPN RANKL SCF "
    "TGF-beta1 TL1A TNF-alpha TPO TRAIL TSLP TWEAK VEGF"
)


@pytest.fixture(scope="module")
def knowledge() -> Knowledge:
    return load_knowledge()


def _spelling(name: str) -> str:
    return re.sub(r"[\s\-_]+", "", name.casefold())


def _mean_change(signs: dict[str, int], *, change: dict[str, float]) -> float:
    found = [sign * change[gene] for gene, sign in signs.items() if gene in change]
    return float(np.mean(found)) if len(found) >= 5 else float("nan")


# --- the tables hold together -------------------------------------------------------------------------------------


def test_pathways_when_loaded_then_are_at_least_55_sets_of_15_to_60_genes(knowledge: Knowledge) -> None:
    assert len(knowledge.pathways) >= 55
    assert {name: len(p.genes) for name, p in knowledge.pathways.items() if not 15 <= len(p.genes) <= 60} == {}
    assert [name for name, p in knowledge.pathways.items() if not p.source] == []


def test_perturbations_when_loaded_then_reach_the_sizes_of_each_type(knowledge: Knowledge) -> None:
    sizes = {
        kind: sum(p.type == kind for p in knowledge.perturbations.values()) for kind in ("cytokine", "drug", "genetic")
    }
    assert sizes["cytokine"] >= 90
    assert sizes["drug"] >= 70
    assert sizes["genetic"] >= 15


def test_perturbations_when_loaded_then_hold_every_cytokine_of_the_parse_panel(knowledge: Knowledge) -> None:
    names = PARSE_PANEL.split()
    assert len(set(names)) == 90
    assert [name for name in names if name not in knowledge.perturbations] == []
    assert {knowledge.perturbations[name].type for name in names} == {"cytokine"}


def test_perturbations_when_they_name_a_pathway_then_it_exists(knowledge: Knowledge) -> None:
    named = {(p.name, pathway) for p in knowledge.perturbations.values() for pathway in p.pathways}
    assert {pair for pair in named if pair[1] not in knowledge.pathways} == set()


def test_signs_when_loaded_then_are_plus_or_minus_one(knowledge: Knowledge) -> None:
    signed = [p.genes for p in knowledge.pathways.values()]
    signed += [table for p in knowledge.perturbations.values() for table in (p.pathways, p.response)]
    assert {sign for table in signed for sign in table.values()} == {1, -1}


def test_responses_when_given_then_hold_8_to_40_genes(knowledge: Knowledge) -> None:
    sizes = {p.name: len(p.response) for p in knowledge.perturbations.values() if p.response}
    assert {name: n for name, n in sizes.items() if not 8 <= n <= 40} == {}


def test_perturbations_when_spelled_loosely_then_mean_one_entry(knowledge: Knowledge) -> None:
    owner: dict[str, str] = {}
    clashes = [
        (word, owner[_spelling(word)], p.name)
        for p in knowledge.perturbations.values()
        for word in (p.name, *p.synonyms)
        if owner.setdefault(_spelling(word), p.name) != p.name
    ]
    assert clashes == []


def test_pathways_when_spelled_loosely_then_mean_one_entry(knowledge: Knowledge) -> None:
    owner: dict[str, str] = {}
    clashes = [
        (word, owner[_spelling(word)], p.name)
        for p in knowledge.pathways.values()
        for word in (p.name, *p.synonyms)
        if owner.setdefault(_spelling(word), p.name) != p.name
    ]
    assert clashes == []


def test_genetic_perturbations_when_loaded_then_target_the_gene_of_their_name(knowledge: Knowledge) -> None:
    knockouts = [p for p in knowledge.perturbations.values() if p.type == "genetic"]
    assert [p.name for p in knockouts if p.name != f"{p.targets[0]} knock-out"] == []


def test_external_ids_when_given_then_have_the_form_of_their_database(knowledge: Knowledge) -> None:
    forms = {
        "DrugBank": r"DB\d{5}",
        "InChIKey": r"[A-Z]{14}-[A-Z]{10}-[A-Z]",
        "UniProt": r"[OPQ]\d\w{3}\d(,[OPQ]\d\w{3}\d)*",
        "ChEMBL": r"CHEMBL\d+",
        "PubChem": r"\d+",
    }
    ids = [(p.name, key, value) for p in knowledge.perturbations.values() for key, value in p.external_ids.items()]
    assert [entry for entry in ids if entry[1] not in forms or not re.fullmatch(forms[entry[1]], entry[2])] == []


# --- facts --------------------------------------------------------------------------------------------------------


def test_response_when_the_gene_is_textbook_then_has_its_sign(knowledge: Knowledge, subtests: pytest.Subtests) -> None:
    for name, gene, sign in [
        ("IFN-beta", "ISG15", 1),
        ("IFN-alpha1", "MX1", 1),
        ("IFN-gamma", "CXCL9", 1),
        ("TGF-beta1", "SERPINE1", 1),
        ("TGF-beta1", "SMAD7", 1),
        ("TNF-alpha", "NFKBIA", 1),
        ("IL-6", "SOCS3", 1),
        ("IL-2", "CISH", 1),
        ("IL-4", "CCL17", 1),
        ("IL-10", "TNF", -1),
        ("Dexamethasone", "FKBP5", 1),
        ("Dexamethasone", "IL6", -1),
        ("Panobinostat", "MT2A", 1),
        ("Ruxolitinib", "STAT1", -1),
        ("Bortezomib", "HSPA1A", 1),
        ("Atorvastatin", "HMGCR", 1),
        ("Trametinib", "DUSP6", -1),
        ("IFNGR1 knock-out", "PSMB9", -1),
    ]:
        with subtests.test(name=name):
            assert knowledge.perturbations[name].response[gene] == sign


def test_rows_once_doubtful_when_looked_up_then_say_what_is_known(knowledge: Knowledge) -> None:
    entries = knowledge.perturbations
    assert entries["Mubritinib"].targets == ("NDUFS2",)
    assert entries["BAY 87-2243"].targets == ("NDUFS2",)
    assert entries["Tivantinib"].family == "tubulin destabiliser"
    assert "IKBKB" not in entries["BAY 11-7082"].targets
    assert entries["Lenalidomide"].targets == entries["Pomalidomide"].targets == ("IKZF1", "IKZF3")
    assert entries["Noggin"].targets == ("BMP2", "BMP4", "BMP7")
    assert entries["Decorin"].pathways == {}
    assert entries["IL-17D"].targets == ("CD93",)
    assert "ALDH2" not in entries["GM-CSF"].response
    assert all("ID2" not in entries[f"TGF-beta{number}"].response for number in (1, 2, 3))
    assert not {"SNAI2", "ZEB2", "KRT19", "CLDN7"} & set(knowledge.pathways["epithelial-mesenchymal transition"].genes)
    signs = {(edge.regulator, edge.target): edge.sign for edge in knowledge.network}
    assert (signs["ESR2", "MYC"], signs["ESR2", "CCND1"]) == (-1, -1)
    assert ("CRBN", "IKZF1") not in signs  # only with a drug in between


def test_rows_when_loaded_then_state_their_source(knowledge: Knowledge) -> None:
    assert {entry.name for entry in knowledge.perturbations.values() if not entry.source.startswith("curated")} == set()


def test_drugs_when_of_one_structure_then_are_one_row(knowledge: Knowledge) -> None:
    keys = [entry.external_ids.get("InChIKey", "") for entry in knowledge.perturbations.values()]
    known = [key for key in keys if key]
    assert len(known) > 250
    assert len(set(known)) == len(known)


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("infliximab", "Infliximab"),
        ("Remicade", "Infliximab"),
        ("adalimumab", "Adalimumab"),
        ("etanercept", "Etanercept"),
        ("anti-TNF", "Anti-TNF antibody"),
        ("anti-TNF\u03b1", "Anti-TNF antibody"),
        ("tocilizumab", "Tocilizumab"),
        ("anti-IL6R", "Anti-IL-6R antibody"),
        ("anti-PD-1", "Anti-PD-1 antibody"),
        ("aPD1", "Anti-PD-1 antibody"),
        ("nivolumab", "Nivolumab"),
        ("anti-PD-L1", "Anti-PD-L1 antibody"),
        ("rituximab", "Rituximab"),
        ("anti-CD3/CD28", "anti-CD3/CD28"),
        ("\u03b1CD3/\u03b1CD28", "anti-CD3/CD28"),
        ("anti-CD3 + anti-CD28", "anti-CD3/CD28"),
        ("CD3/CD28 beads", "anti-CD3/CD28"),
        ("OKT3", "Anti-CD3 antibody"),
        ("PHA", "PHA"),
        ("phytohaemagglutinin", "PHA"),
        ("ConA", "Concanavalin A"),
        ("SEB", "Staphylococcal enterotoxin B"),
        ("PMA/ionomycin", "PMA + ionomycin"),
        ("CpG ODN 2006", "CpG"),
        ("2'3'-cGAMP", "cGAMP"),
        ("Pam3CSK4", "Pam3CSK4"),
        ("MIP-1\u03b1", "CCL3"),
        ("RANTES", "CCL5"),
        ("eotaxin", "CCL11"),
        ("GRO-\u03b1", "CXCL1"),
        ("fractalkine", "CX3CL1"),
        ("insulin", "Insulin"),
        ("beta-NGF", "NGF"),
        ("BDNF", "BDNF"),
        ("KGF", "FGF7"),
        ("heregulin", "Neuregulin-1"),
        ("lymphotoxin alpha", "LTA"),
        ("EMAP-II", "AIMP1"),
        ("IL-17 A/F", "IL17A/F"),
        ("IL-4 and IL-13", "IL-4 + IL-13"),
        ("LPS+IFNg", "LPS + IFN-gamma"),
        ("I-BET762", "Molibresib"),
        ("Tazverik", "Tazemetostat"),
        ("tucatinib", "Tucatinib"),
        ("TGF-alpha", "TGF-alpha"),
        ("angiopoietin-1", "Angiopoietin-1"),
        ("Ang II", "Angiotensin II"),
    ],
)
def test_common_treatments_when_written_as_people_do_then_known(knowledge: Knowledge, label: str, name: str) -> None:
    found = resolve(label, kind="perturbation", knowledge=knowledge)
    assert found.match is not None
    assert (found.match.id, found.ambiguous) == (name, False)


@pytest.mark.parametrize(
    ("label", "name", "targets", "kind"),
    [
        ("CD40L+IL-4", "CD40L + IL-4", {"CD40", "IL4R", "IL2RG", "IL13RA1"}, "cytokine"),
        ("IL4 and CD40 ligand", "CD40L + IL-4", {"CD40", "IL4R", "IL2RG", "IL13RA1"}, "cytokine"),
        ("IL13+IL4", "IL-4 + IL-13", {"IL4R", "IL2RG", "IL13RA1"}, "cytokine"),
        ("IFN-gamma & LPS", "LPS + IFN-gamma", {"TLR4", "IFNGR1", "IFNGR2"}, "drug"),
        ("trametinib + dabrafenib", "Dabrafenib + Trametinib", {"BRAF", "RAF1", "MAP2K1", "MAP2K2"}, "drug"),
        ("IFN-beta + ruxolitinib", "IFN-beta + Ruxolitinib", set(), "drug"),  # one activates, one inhibits
        ("IL-2 + IL-7 + IL-15", "IL-15 + IL-2 + IL-7", {"IL2RA", "IL2RB", "IL2RG", "IL7R", "IL15RA"}, "cytokine"),
    ],
)
def test_combination_when_each_part_is_known_then_one_treatment_of_its_parts(
    knowledge: Knowledge, label: str, name: str, targets: set[str], kind: str
) -> None:
    found = resolve(label, kind="perturbation", knowledge=knowledge)
    assert found.match is not None
    assert (found.match.id, found.ambiguous) == (name, False)
    entry = perturbation_of(name, knowledge=knowledge)
    assert entry is not None
    assert (set(entry.targets), entry.type) == (targets, kind)


@pytest.mark.parametrize("label", ["IL-2 + frobnicatol", "TNF + TNF-alpha", "+ IL-2", "IL-1 + IL-6", "IL-2/15"])
def test_combination_when_a_part_is_unknown_ambiguous_or_the_same_then_none(knowledge: Knowledge, label: str) -> None:
    found = resolve(label, kind="perturbation", knowledge=knowledge)
    assert found.match is None or found.ambiguous or " + " not in found.match.id


def test_jak_inhibitors_when_looked_up_then_lower_both_interferon_pathways(
    knowledge: Knowledge, subtests: pytest.Subtests
) -> None:
    for name in ["Ruxolitinib", "Tofacitinib", "Baricitinib"]:
        with subtests.test(name=name):
            pathways = knowledge.perturbations[name].pathways
            assert (pathways["type I interferon response"], pathways["type II interferon response"]) == (-1, -1)


def test_type_i_interferons_when_compared_then_are_one_family_with_overlapping_response(knowledge: Knowledge) -> None:
    beta, alpha = knowledge.perturbations["IFN-beta"], knowledge.perturbations["IFN-alpha1"]
    shared = beta.response.keys() & alpha.response.keys()
    assert beta.family == alpha.family == knowledge.perturbations["IFN-omega"].family
    assert len(shared) / min(len(beta.response), len(alpha.response)) > 0.5
    assert beta.targets == alpha.targets == ("IFNAR1", "IFNAR2")


# --- real data ----------------------------------------------------------------------------------------------------


def test_genes_when_looked_up_in_gencode_then_are_current_symbols(shared: Path, knowledge: Knowledge) -> None:
    import pandas as pd

    symbols = set(
        pd.read_csv(shared / "data" / "genesets" / "gencode_v49_gene_map.tsv.gz", sep="\t", usecols=["gene_name"])[
            "gene_name"
        ]
    )
    genes = {gene for p in knowledge.pathways.values() for gene in p.genes}
    genes |= {gene for p in knowledge.perturbations.values() for gene in (*p.targets, *p.response)}
    assert sorted(genes - symbols) == []


def _kang_change(shared: Path, cell_type: str) -> dict[str, float]:
    import anndata as ad

    cells = ad.read_h5ad(shared / "data" / "perturbation" / "kang2018_ifnb_public.h5ad")
    cells = cells[cells.obs["cell_type"] == cell_type]
    counts = cells.X.toarray()
    lognorm = np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))
    stim = (cells.obs["condition"] == "stim").to_numpy()
    change = lognorm[stim].mean(axis=0) - lognorm[~stim].mean(axis=0)
    return dict(zip(cells.var_names, change.tolist(), strict=True))


def test_type_i_interferon_set_when_monocytes_meet_ifn_beta_then_rises_most(shared: Path, knowledge: Knowledge) -> None:
    change = _kang_change(shared, "CD14+ monocyte")
    by_pathway = {name: _mean_change(p.genes, change=change) for name, p in knowledge.pathways.items()}
    ranked = sorted((n for n, v in by_pathway.items() if np.isfinite(v)), key=by_pathway.__getitem__, reverse=True)
    assert ranked[0] == "type I interferon response"
    assert ranked[-1] == "JAK inhibition response"
    by_treatment = {p.name: _mean_change(p.response, change=change) for p in knowledge.perturbations.values()}
    leader = max((n for n, v in by_treatment.items() if np.isfinite(v)), key=by_treatment.__getitem__)
    assert knowledge.perturbations[leader].family == "type I interferon"


def test_drug_responses_when_measured_in_blood_then_mostly_move_the_stated_way(
    shared: Path, knowledge: Knowledge
) -> None:
    import anndata as ad

    signatures = ad.read_h5ad(shared / "data" / "signatures" / "neurips2023_ranks_public.h5ad")
    names = {_spelling(w): p for p in knowledge.perturbations.values() for w in (p.name, *p.synonyms)}
    upness = 1.0 - 2.0 * (signatures.X - 1.0) / (signatures.n_vars - 1.0)  # rank 1 is most up: from +1 to -1
    moved = {}
    for drug, cell_type, row in zip(signatures.obs["perturbation"], signatures.obs["cell_type"], upness, strict=True):
        entry = names.get(_spelling(drug))
        change = dict(zip(signatures.var_names, row.tolist(), strict=True))
        if entry is not None and sum(gene in change for gene in entry.response) >= 8:
            moved[entry.name, cell_type] = _mean_change(entry.response, change=change)
    assert len(moved) >= 80  # every drug with 8 measured response genes, not a chosen few
    assert np.mean([change > 0 for change in moved.values()]) > 0.75
    assert min(change for (drug, _), change in moved.items() if drug == "Ruxolitinib") > 0.3
