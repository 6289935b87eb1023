"""Networks and regulons in their published forms, told apart by columns; the packaged network holds together."""

import gzip

import pytest

from haystack_kernel.errors import InvalidInputError
from haystack_kernel.knowledge import Edge, load_knowledge
from haystack_kernel.knowledge.actions import action_on_targets
from haystack_kernel.knowledge.additions import add_knowledge
from haystack_kernel.knowledge.networks import find_form

OMNIPATH = (
    "source\ttarget\tsource_genesymbol\ttarget_genesymbol\tis_directed\tis_stimulation\tis_inhibition"
    "\tconsensus_direction\tconsensus_stimulation\tconsensus_inhibition\n"
    "P1\tP2\tGENEA\tGENEB\t1\t1\t1\t1\t1\t0\n"  # the consensus decides: activates
    "P1\tP3\tGENEA\tGENEC\tTrue\t0\t1\t1\t0\t1\n"  # inhibits
    "P1\tP4\tGENEA\tGENED\t0\t1\t0\t1\t1\t0\n"  # not directed
    "P1\tP5\tGENEA\tGENEE\t1\t1\t1\t1\t1\t1\n"  # both signs
    "P1\tP6\tGENEA\tCOMPLEX:P6_P7\t1\t1\t0\t1\t1\t0\n"  # no symbol
)
STRING = "#node1\tnode2\tnode1_string_id\tcombined_score\nGENEA\tGENEB\t9606.X\t0.9\nGENEA\tGENEC\t9606.X\t0.699\n"
COLLECTRI = "source\ttarget\tweight\nTFA\tGENEB\t1\nTFA\tGENEC\t-1\nTFA\tTFA\t1\n"
DOROTHEA = "tf\tconfidence\ttarget\tmor\nTFA\tA\tGENEB\t1.0\nTFA\tB\tGENEC\t-0.5\n"


def edges_of(known, *, source):
    return {(edge.regulator, edge.target): edge for edge in known.network if edge.source == source}


def test_add_when_omnipath_then_directed_edges_of_one_sign_stay(added, write):
    known = added(write("omnipath.tsv", OMNIPATH))
    assert edges_of(known, source="OmniPath") == {
        ("GENEA", "GENEB"): Edge("GENEA", "GENEB", 1, "signalling", "OmniPath"),
        ("GENEA", "GENEC"): Edge("GENEA", "GENEC", -1, "signalling", "OmniPath"),
    }
    assert known.sources[-1].kind == "network"


def test_add_when_omnipath_then_what_was_left_out_is_counted(tmp_path, write):
    header = add_knowledge(write("omnipath.tsv", OMNIPATH), folder=tmp_path / "added")
    assert header.notes[0] == "3 rows without direction, sign or symbols, or below the score, left out"


@pytest.mark.parametrize(
    "text",
    [
        STRING,
        "stringId_A\tstringId_B\tpreferredName_A\tpreferredName_B\tscore\n1\t2\tGENEA\tGENEB\t0.9\n",
        "protein1 protein2 combined_score\nGENEA GENEB 900\nGENEA GENEC 650\n",
    ],
)
def test_add_when_string_then_confident_associations_go_both_ways(added, write, text):
    found = edges_of(added(write("string.txt", text)), source="STRING")
    assert found.keys() == {("GENEA", "GENEB"), ("GENEB", "GENEA")}
    assert {(edge.sign, edge.kind, edge.weight) for edge in found.values()} == {(1, "association", 0.9)}


def test_add_when_string_has_protein_ids_then_the_export_to_give_is_named(tmp_path, write):
    path = write("links.txt", "protein1 protein2 combined_score\n9606.ENSP00000000233 9606.ENSP00000250971 900\n")
    with pytest.raises(
        InvalidInputError, match=r"ENSP00000000233 is an Ensembl protein\. Give STRING's export with gene"
    ):
        add_knowledge(path, folder=tmp_path / "added")


@pytest.mark.parametrize(("text", "name"), [(COLLECTRI, "CollecTRI"), (DOROTHEA, "DoRothEA")])
def test_add_when_regulons_then_signs_are_kept(added, write, text, name):
    known = added(write("regulons.tsv.gz", gzip.compress(text.encode())))
    found = edges_of(known, source=name)
    assert {pair: edge.sign for pair, edge in found.items()} == {("TFA", "GENEB"): 1, ("TFA", "GENEC"): -1}
    assert known.sources[-1].kind == "regulons"
    assert {edge.kind for edge in found.values()} == {"transcription"}


def test_add_when_an_edge_is_known_then_the_later_one_counts(added, write):
    known = added(write("mine.tsv", "source\ttarget\tweight\nIRF9\tISG15\t-1\n"))
    assert [edge.sign for edge in known.network if (edge.regulator, edge.target) == ("IRF9", "ISG15")] == [-1]
    assert len(known.network) == len(load_knowledge().network)


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        (
            COLLECTRI,
            "network",
            "columns source, target, weight, which are not those of a network table. Known forms are OmniPath",
        ),
        ("source\ttarget\tweight\nTFA\tB\tmuch\n", None, "line 2: weight 'much' is not a number"),
        ("source\ttarget\tweight\nTFA\tB\n", None, "line 2 has 2 columns, the header has 3"),
        ("source\ttarget\tweight\nTFA\tB\tnan\n", None, "line 2: weight 'nan' is not a number"),
        ("# a remark\n\nsource\ttarget\tweight\nTFA\tB\t\n", None, "line 4: weight '' is not a number"),
        (
            "source\ttarget\tweight\n7157\t1026\t1\n7157\t4193\t1\n",
            None,
            r"4 of 4 entries, such as '7157' \(line 2\), are Entrez gene numbers",
        ),
        ("source\ttarget\tweight\nTFA\t1-Dec\t1\n", None, "line 2: '1-Dec' is a date"),
        ("source\ttarget\tweight\nTrp53\tCdkn1a\t1\nStat1\tIrf7\t1\n", None, "written like mouse symbols"),
        ("source\ttarget\tweight\nTFA\tTFA\t1\n", None, "no row of this CollecTRI table gives an edge"),
    ],
)
def test_add_when_a_table_is_wrong_then_refused_and_nothing_kept(tmp_path, write, text, kind, message):
    with pytest.raises(InvalidInputError, match=message):
        add_knowledge(write("x.tsv", text), folder=tmp_path / "added", kind=kind)
    assert not list(tmp_path.glob("added/*"))


@pytest.mark.parametrize(
    "raw",
    [
        b"\xef\xbb\xbfsource\ttarget\tweight\r\nTP53\tMDM2\t1\r\n",
        b"source\ttarget\tweight\nENSG00000141510\tENSG00000135679.27\t1\n",
        b"source,target,weight\ntp53,mdm2,1\n",
        "source\ttarget\tweight\nTP53\tMDM2\t1\n".encode("utf-16"),
    ],
)
def test_add_when_regulons_are_written_in_other_ways_then_the_same_edge(added, write, raw):
    assert edges_of(added(write("regulons.tsv", raw)), source="CollecTRI").keys() == {("TP53", "MDM2")}


def test_find_form_when_a_table_of_targets_then_none():
    assert find_form(b"name\ttarget\nAspirin\tPTGS1\n") is None


def test_packaged_network_when_loaded_then_large_signed_and_sourced():
    network = load_knowledge().network
    assert len(network) >= 800
    assert {edge.sign for edge in network} == {1, -1}
    assert {edge.kind for edge in network} == {"ligand", "signalling", "transcription"}
    assert all(edge.source for edge in network)


def test_packaged_network_when_a_cytokine_is_asked_then_a_target_regulates_something():
    known = load_knowledge()
    regulators = {edge.regulator for edge in known.network}
    missing = [
        name
        for name, entry in known.perturbations.items()
        if entry.type == "cytokine" and entry.targets and not regulators & set(entry.targets)
    ]
    # what follows the receptors of these is not written down
    assert set(missing) <= {"IL-16", "ADSF", "IL-17D", "WNT5A", "Adiponectin", "Osteopontin", "Endothelin-1"}


@pytest.mark.parametrize(
    ("name", "action"),
    [
        ("IFN-beta", 1),
        ("IL-1Ra", -1),
        ("Noggin", -1),
        ("Ruxolitinib", -1),
        ("Dexamethasone", 1),
        ("Sulforaphane", -1),  # inhibits KEAP1
        ("Enzalutamide", -1),
        ("T0901317", 1),
        ("STAT1 knock-out", -1),
        ("Fingolimod", 0),  # a modulator: not known
        ("Infliximab", -1),
        ("Anti-PD-1 antibody", -1),
        ("anti-CD3/CD28", 1),
        ("Rituximab", 0),  # removes cells instead of changing a signal
        ("Sonic hedgehog", -1),  # inhibits PTCH1
        ("Lenalidomide", -1),  # IKZF1 and IKZF3 are lost
    ],
)
def test_action_when_a_treatment_is_known_then_its_sign(name, action):
    known = load_knowledge()
    assert action_on_targets(known.perturbations[name], knowledge=known) == action


def test_add_when_an_association_meets_a_signed_edge_then_the_sign_stays(added, write):
    packaged = {(edge.regulator, edge.target): edge for edge in load_knowledge().network}
    assert packaged["NFKBIA", "RELA"].sign == -1
    known = added(write("links.tsv", "node1\tnode2\tcombined_score\nNFKBIA\tRELA\t0.99\nNFKBIA\tZZZ1\t0.8\n"))
    edges = {(edge.regulator, edge.target): edge for edge in known.network}
    assert edges["NFKBIA", "RELA"] == packaged["NFKBIA", "RELA"]
    assert (edges["NFKBIA", "ZZZ1"].kind, edges["ZZZ1", "NFKBIA"].kind) == ("association", "association")


def test_packaged_minus_edges_when_compared_with_collectri_then_three_in_four_agree(shared):
    with gzip.open(shared / "data/genesets/collectri_tf_target.tsv.gz", "rt") as stream:
        rows = [line.rstrip("\n").split("\t") for line in stream][1:]
    signs = {(regulator, target): float(weight) for regulator, target, weight in rows}
    edges = [edge for edge in load_knowledge().network if (edge.regulator, edge.target) in signs]
    for sign, least in [(1, 0.97), (-1, 0.75)]:  # an edge without a sign is +1 in CollecTRI
        agree = [sign * signs[edge.regulator, edge.target] > 0 for edge in edges if edge.sign == sign]
        assert len(agree) > 90
        assert sum(agree) / len(agree) >= least
