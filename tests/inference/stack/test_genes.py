from __future__ import annotations

import json
import os
import pickle

import numpy as np
import pytest
from scipy import sparse

from inference.errors import InputError, ModelError
from inference.stack.genes import align, coverage_warnings, digest_genes, has_gene, read_genes, read_names

GENES = ["ISG15", "Il6", "CXCL10"]
UPPER = ("ISG15", "IL6", "CXCL10")


class _Runs:
    """Touches a file when a careless unpickler builds it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


_KINDS = (
    list,
    tuple,
    np.array,
    lambda names: np.array(names, dtype=object),
    lambda names: [np.str_(name) for name in names],
    lambda names: np.array([np.str_(name) for name in names], dtype=object),
    lambda names: list(np.array(names)),
)


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize("protocol", range(6))
def test_pickled_names_are_read_in_every_protocol(tmp_path, kind, protocol):
    path = tmp_path / "genes.pkl"
    path.write_bytes(pickle.dumps(kind(GENES), protocol=protocol))
    assert read_genes(path, name="genes.pkl") == UPPER


@pytest.mark.parametrize(
    ("name", "text"), [("g.json", json.dumps(GENES)), ("g.txt", "ISG15\n\nIl6 \r\nCXCL10\n"), ("g", json.dumps(GENES))]
)
def test_json_and_text_are_read(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert read_genes(tmp_path / name, name=name) == UPPER


def test_both_lists_of_the_fixtures_are_equal(fixtures):
    assert read_genes(fixtures / "genelist.pkl", name="p") == read_genes(fixtures / "genelist.json", name="j")


@pytest.mark.parametrize("wrap", [lambda evil: evil, lambda evil: ["A", evil], lambda evil: {"A": evil}])
@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize("name", ["genes.pkl", "genes.json", "genes"])
def test_pickle_that_runs_code_is_refused_and_runs_nothing(tmp_path, wrap, protocol, name):
    sentinel = tmp_path / "sentinel"
    path = tmp_path / name
    path.write_bytes(pickle.dumps(wrap(_Runs(sentinel)), protocol=protocol))
    if (protocol, name) == (0, "genes"):  # a text file as far as anyone can tell: its lines are taken for names
        assert read_genes(path, name=name)
    else:
        match = "not valid JSON" if (protocol, name) == (0, "genes.json") else f"{os.system.__module__}.system.*refused"
        with pytest.raises(ModelError, match=match):
            read_genes(path, name=name)
    assert not sentinel.exists()


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (pickle.dumps({"A": 1}), "holds a dict"),
        (pickle.dumps(["A", 3]), "int '3'"),
        (pickle.dumps(["A", np.int64(3)]), "an array of 'i8'"),
        (pickle.dumps(["A", np.bytes_(b"B")]), "an array of 'S1'"),
        (pickle.dumps(["A", np.void(b"B")]), "an array of 'V1'"),
        (pickle.dumps(np.array([["A"]])), "holds a ndarray"),
        (pickle.dumps(np.array([1.0])), "array of 'f8'"),
        (pickle.dumps(["A", "B"])[:-4], "not a readable pickle"),
        (pickle.dumps([*GENES, "il6"]), r"more than once \(IL6\)"),
        (pickle.dumps([]), "holds no names"),
        (pickle.dumps(np.dtype), "not a list"),
        (b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f.", "not a readable pickle"),
        (b"\x80\x04Pabc\n.", "a reference to 'abc'"),
    ],
)
def test_pickle_of_anything_else_is_refused(tmp_path, data, match):
    path = tmp_path / "genes.pkl"
    path.write_bytes(data)
    with pytest.raises(ModelError, match=match):
        read_genes(path, name="genes.pkl")


@pytest.mark.parametrize(
    ("name", "data", "match"),
    [
        ("g.json", b'{"a": 1}', "JSON dict, not a list"),
        ("g.json", b"[", "not valid JSON"),
        ("g.json", b'["A", ""]', "a gene name is needed"),
        ("g.txt", b"", "holds no names"),
        ("g.txt", b"\xff\xfe\x00", "not text"),
    ],
)
def test_other_files_are_refused(tmp_path, name, data, match):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ModelError, match=match):
        read_genes(tmp_path / name, name=name)


def test_alignment_is_by_upper_cased_name():
    counts = sparse.csr_matrix(np.array([[1, 2, 3, 4], [5, 6, 7, 8]], dtype=np.float32))
    model = {"C": 0, "A": 1, "B": 2}
    found = align(counts, ["x", "b", "A", "a"], model_genes=model, role="query")
    assert found.counts.toarray().tolist() == [[0, 3, 2], [0, 7, 6]]  # of A and a the first counts
    assert dict(zip(found.own.tolist(), found.model.tolist(), strict=True)) == {1: 2, 2: 1}


def test_cells_without_a_gene_of_the_model_are_refused():
    with pytest.raises(InputError, match=r"none of the prompt cells' 1 genes \(such as X\).*0 % coverage"):
        align(sparse.csr_matrix((2, 1)), ["X"], model_genes={"A": 0}, role="prompt")


def test_names_keep_their_spelling_where_it_is_asked_for(tmp_path):
    (tmp_path / "g.json").write_text(json.dumps(GENES))
    assert read_names(tmp_path / "g.json", name="g") == tuple(GENES)


def test_digest_is_of_the_names_and_their_order_whatever_the_file():
    assert digest_genes(GENES) == digest_genes(UPPER)
    assert digest_genes(GENES) != digest_genes(GENES[::-1])
    assert digest_genes(["A", "B"]) != digest_genes(["AB"])


def test_genes_of_the_model_are_told_as_the_alignment_takes_them():
    names = ["x", "b", "A", "a"]
    found = has_gene(names, model_genes={"C": 0, "A": 1, "B": 2})
    assert found.tolist() == [False, True, True, False]
    own = align(sparse.csr_matrix((1, 4)), names, model_genes={"C": 0, "A": 1, "B": 2}, role="query").own
    assert np.flatnonzero(found).tolist() == sorted(own.tolist())


@pytest.mark.parametrize(
    ("query", "prompt", "roles"), [(0.5, 0.9, []), (0.49, 0.9, ["query"]), (0.1, 0.2, ["query", "prompt"])]
)
def test_low_coverage_is_warned_of_by_role(query, prompt, roles):
    record = {"model": {"frac_model_genes_in_query": query, "frac_model_genes_in_prompt": prompt}}
    found = coverage_warnings(record)
    assert [text.split()[2] for text in found] == roles
    assert all("of the model's genes and the model sees 0 in all others" in text for text in found)
    assert coverage_warnings({}) == []
