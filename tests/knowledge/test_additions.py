"""Files added to what is known: all of a file or nothing, told apart, found again."""

from __future__ import annotations

import gzip
import hashlib
import json
import subprocess
import sys

import pytest

from haystack_kernel.errors import ContractError, InvalidInputError, NotFoundError, StorageError
from haystack_kernel.knowledge import load_knowledge
from haystack_kernel.knowledge.additions import add_knowledge
from haystack_kernel.knowledge.compact import list_headers, read_addition
from haystack_kernel.knowledge.readers import read_bounded

GMT = "set one\tsource\tTNF\tIL6\n"
ONTOLOGY = {
    "CL:0000000": {"label": "cell", "ancestors": {}},
    "CL:0000576": {"label": "monocyte", "ancestors": {"CL:0000000": 1}, "synonyms": ["big white cell"]},
    "CL:0009999": {"label": "blorbocyte", "ancestors": {"CL:0000576": 1, "CL:0000000": 2}},
    "CL:0008888": {"label": "obsolete bloop", "deprecated": True, "replaced_by": "CL:0009999"},
}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "added"


def test_add_when_file_then_kept_with_version_digest_and_licence(folder, write):
    path = write("my_sets_v2.1.gmt", "# licence: CC BY 4.0, see x\n" + GMT)
    header = add_knowledge(path, folder=folder)
    assert (header.name, header.kind, header.version, header.n_terms) == ("my_sets_v2-1", "genesets", "2.1", 1)
    assert header.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert header.licence == "CC BY 4.0"
    assert list_headers(folder) == [header]
    known = load_knowledge(folder)
    assert known.pathways["set one"].genes == {"TNF": 1, "IL6": 1}
    assert len(known.pathways) == len(load_knowledge().pathways) + 1


def test_add_when_gzip_then_the_digest_is_that_of_the_file_as_it_lies(folder, write):
    path = write("x.gmt.gz", gzip.compress(GMT.encode()))
    assert add_knowledge(path, folder=folder).digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_digests_when_something_is_added_then_they_change_and_name_it(folder, write):
    before = load_knowledge(folder)
    header = add_knowledge(write("one.gmt", GMT), folder=folder)
    after = load_knowledge(folder)
    assert before is load_knowledge()
    assert after.digest != before.digest
    assert after.version == f"{before.version} + one version unstated"
    assert after.digests() == {
        **{key: digest for key, digest in before.digests().items() if key != f"knowledge:{before.version}"},
        f"knowledge:{after.version}": after.digest,
        "knowledge:genesets:one version unstated": header.digest,
    }
    assert load_knowledge(folder) is after
    add_knowledge(write("one.gmt", GMT + "two\t\tTNF\n"), folder=folder)
    assert load_knowledge(folder).digest not in (before.digest, after.digest)


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("a.gmt", GMT, "genesets"),
        ("a.GMT", GMT, "genesets"),
        ("cl.json", json.dumps(ONTOLOGY), "cl"),
        ("x.json", '{"MONDO:0000001": {"label": "disease"}}', "mondo"),
        ("x.json", '{"UBERON:0000001": {"label": "organ"}}', "uberon"),
        ("x.obo", "format-version: 1.2\n\n[Term]\nid: UBERON:0000001\nname: organ\n", "uberon"),
        ("t.tsv", "name\ttarget\nx\tTNF\n", "targets"),
        ("t.csv", "name,target\nx,TNF\n", "targets"),
    ],
)
def test_add_when_no_kind_is_said_then_it_is_told_from_the_file(folder, write, name, content, kind):
    if name.endswith(".obo"):
        pytest.importorskip("pronto")
    assert add_knowledge(write(name, content), folder=folder).kind == kind


@pytest.mark.parametrize(
    ("name", "content", "options", "says"),
    [
        ("x.gmt", b"", {}, "is empty"),
        ("x.gmt", b"\n \n", {}, "is empty"),
        ("x.gmt.gz", gzip.compress(GMT.encode(), mtime=0)[:-9], {}, "truncated or damaged gzip"),
        ("x.gmt", b"\x80\x04\x95.", {}, "not text in UTF-8"),
        ("x.pkl", b"\x80\x04\x95.", {}, "cannot be told from its name"),
        ("x.owl", b"<?xml version='1.0'?>", {}, "cannot be told from its name"),
        ("x.obo", b"<?xml version='1.0'?>", {}, "no CL, UBERON or MONDO term"),
        ("x.json", b"{}", {}, "no CL, UBERON or MONDO term"),
        ("x.gmt", GMT.encode(), {"kind": "pathways"}, "kind 'pathways' is unknown; possible: cl, uberon, mondo"),
        ("x.json", json.dumps(ONTOLOGY).encode(), {"kind": "mondo"}, "has no MONDO term"),
        ("x.gmt", GMT.encode(), {"columns": {"name": "x"}}, "a column mapping is for targets"),
        ("x.gmt", GMT.encode(), {"name": "../x"}, "the name '../x' is invalid"),
        ("x.gmt", GMT.encode(), {"name": "packaged"}, "the name 'packaged' is invalid"),
        ("x.gmt", GMT.encode(), {"name": "X"}, "the name 'X' is invalid"),
        ("x.gmt", GMT.encode() + b"broken\n", {}, "line 2"),
    ],
)
def test_add_when_file_is_wrong_then_nothing_is_kept(folder, write, name, content, options, says):
    with pytest.raises(InvalidInputError, match=says):
        add_knowledge(write(name, content), folder=folder, **options)
    assert not folder.exists()


def test_add_when_file_is_missing_or_a_folder_then_said(folder, tmp_path):
    for path in (tmp_path / "none.gmt", tmp_path):
        with pytest.raises(NotFoundError, match="is no file"):
            add_knowledge(path, folder=folder)


def test_read_when_a_small_gzip_unpacks_to_too_much_then_refused(write):
    path = write("x.gmt.gz", gzip.compress(GMT.encode() * 1000))
    assert path.stat().st_size < 1000
    with pytest.raises(InvalidInputError, match=r"has more than 0\.00954 MiB"):
        read_bounded(path, max_bytes=10_000)
    assert len(read_bounded(path)[0]) == len(GMT) * 1000


def test_add_when_it_fails_then_what_was_there_stays(folder, write):
    add_knowledge(write("x.gmt", GMT), folder=folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(InvalidInputError):
        add_knowledge(write("x.gmt", "broken\n"), folder=folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_add_when_folder_cannot_be_made_then_a_storage_error(tmp_path, write):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="HAYSTACK_KNOWLEDGE"):
        add_knowledge(write("x.gmt", GMT), folder=tmp_path / "file")


@pytest.mark.parametrize("damage", ["cut", "changed", "header", "format", "renamed", "empty"])
def test_load_when_an_addition_is_damaged_then_named_and_nothing_is_guessed(folder, write, damage):
    add_knowledge(write("x.gmt", GMT), folder=folder)
    path = folder / "x.json"
    raw = path.read_bytes()
    if damage == "renamed":
        path.rename(folder / "y.json")
    else:
        path.write_bytes(
            {
                "cut": raw[:-20],
                "changed": raw.replace(b"TNF", b"TNG"),
                "header": b"{}\n" + raw,
                "format": raw.replace(b'"format": 2', b'"format": 3'),
                "empty": b"",
            }[damage]
        )
    with pytest.raises(ContractError, match="Add its source again, or delete the file"):
        load_knowledge(folder)


def test_compact_form_when_read_again_then_the_same_records(folder, write):
    header = add_knowledge(write("cl.json", json.dumps(ONTOLOGY)), folder=folder)
    addition = read_addition(folder / "cl.json")
    assert addition.header == header
    assert [row.id for row in addition.rows] == ["CL:0000000", "CL:0000576", "CL:0009999"]
    assert addition.rows[1].synonyms == ("big white cell",)
    assert addition.obsolete[0].replaced_by == ("CL:0009999",)


def test_packaged_knowledge_when_loaded_then_no_parser_of_additions_is_imported():
    code = (
        "from haystack_kernel.knowledge import load_knowledge, resolve; import sys\n"
        "resolve('NK', kind='cell_type', knowledge=load_knowledge('/nonexistent'))\n"
        "print([name for name in ('pronto', 'pandas', 'haystack_kernel.knowledge.obo') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
