"""Vectors of descriptions: which texts they find similar, and that a cache never changes an answer."""

import threading

import numpy as np
import pytest
from scipy import sparse

from haystack_kernel.knowledge import load_knowledge
from haystack_kernel.retrieval.similarity.descriptions import describe_cells, describe_perturbation
from haystack_kernel.retrieval.similarity.vectoriser import TfidfVectoriser, make_vectoriser
from haystack_kernel.retrieval.similarity.vectors import vectors_of

TEXTS = ("alpha beta", "beta gamma", "delta")


class Counting:
    """One-hot by first letter; counts how often it is asked."""

    def __init__(self, version="1"):
        self.version, self.calls = version, 0

    def encode(self, texts):
        self.calls += 1
        return sparse.csr_matrix([[float(text[0] == letter) for letter in "abd"] for text in texts], dtype=np.float32)


def test_vectors_are_made_once_and_read_afterwards(tmp_path):
    maker = Counting()
    first = vectors_of(TEXTS, vectoriser=maker, cache=tmp_path)
    again = vectors_of(TEXTS, vectoriser=maker, cache=tmp_path)
    assert maker.calls == 1
    assert (first != again).nnz == 0
    assert [path.suffix for path in tmp_path.iterdir()] == [".npz"]


def test_vectors_of_other_texts_or_another_version_are_made_anew(tmp_path):
    maker = Counting()
    vectors_of(TEXTS, vectoriser=maker, cache=tmp_path)
    vectors_of(TEXTS[:2], vectoriser=maker, cache=tmp_path)
    assert maker.calls == 2
    newer = Counting("2")
    vectors_of(TEXTS, vectoriser=newer, cache=tmp_path)
    assert newer.calls == 1


def test_a_damaged_file_is_made_again(tmp_path):
    vectors_of(TEXTS, vectoriser=Counting(), cache=tmp_path)
    (path,) = tmp_path.iterdir()
    for damage in (b"", b"no archive", path.read_bytes()[:-40]):
        path.write_bytes(damage)
        maker = Counting()
        assert vectors_of(TEXTS, vectoriser=maker, cache=tmp_path).shape == (3, 3)
        assert maker.calls == 1


def test_a_folder_that_cannot_be_written_keeps_nothing_and_does_not_matter(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    assert vectors_of(TEXTS, vectoriser=Counting(), cache=blocked / "vectors").shape == (3, 3)
    assert vectors_of(TEXTS, vectoriser=Counting(), cache=None).shape == (3, 3)


def test_many_writers_leave_one_whole_file(tmp_path):
    results = []
    work = [
        threading.Thread(target=lambda: results.append(vectors_of(TEXTS, vectoriser=Counting(), cache=tmp_path)))
        for _ in range(8)
    ]
    for one in work:
        one.start()
    for one in work:
        one.join()
    assert all((one != results[0]).nnz == 0 for one in results)
    assert len(list(tmp_path.iterdir())) == 1


def test_tfidf_rows_have_length_one_and_the_cosine_of_scikit_learn():
    from sklearn.feature_extraction.text import TfidfVectorizer

    maker = TfidfVectoriser(TEXTS, version="x")
    found = maker.encode(TEXTS)
    assert pytest.approx(np.ones(3)) == np.sqrt(found.multiply(found).sum(axis=1)).A1
    cosine = (found @ found.T).toarray()
    assert cosine[0, 1] > cosine[0, 2]
    words = TfidfVectorizer(token_pattern=r"[a-z0-9]+(?:-[a-z0-9]+)*", ngram_range=(1, 2), sublinear_tf=True)
    letters = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True, min_df=2)
    by_words, by_letters = words.fit_transform(TEXTS).toarray(), letters.fit_transform(TEXTS).toarray()
    whole = np.hstack([by_words, 0.5 * by_letters])
    by_hand = whole @ whole.T / np.outer(*[np.linalg.norm(whole, axis=1)] * 2)
    assert cosine == pytest.approx(by_hand, abs=1e-6)


@pytest.mark.parametrize(
    ("asked", "near", "far"),
    [
        ("IFN-beta", "IFN-alpha1", "IL-17A"),
        ("IL-15", "IL-2", "TGF-beta1"),
        ("Vorinostat", "Panobinostat", "Dexamethasone"),
        ("Ruxolitinib", "Baricitinib", "Methotrexate"),
    ],
)
def test_descriptions_of_one_family_are_more_similar_than_those_of_others(asked, near, far):
    knowledge = load_knowledge()
    texts = [describe_perturbation(name, knowledge=knowledge) for name in (asked, near, far)]
    found = make_vectoriser(knowledge).encode(texts)
    cosine = (found @ found.T).toarray()
    assert cosine[0, 1] > 0.3 > cosine[0, 2]


def test_description_of_cells_names_the_lineage_and_of_unknown_ones_the_label():
    knowledge = load_knowledge()
    assert "lymphocyte" in describe_cells("CL:0000623", "NK", knowledge=knowledge)
    assert describe_cells("", "odd cluster 7", knowledge=knowledge) == "odd cluster 7"
