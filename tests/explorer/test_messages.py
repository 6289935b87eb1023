"""What views are told: plain JSON and bytes that hold the same numbers as the state."""

import json

import numpy as np
import pytest

from haystack_kernel.explorer.messages import answer

pytestmark = pytest.mark.slow  # they work a run

GENE = "STAT1"


def ask(state, kind, value=None, buffers=(), **further):
    replies = answer(state, {"kind": kind, "value": value, **further}, list(buffers))
    for reply in replies:
        json.dumps(reply.content, allow_nan=False)  # NaN is no JSON: a browser would refuse it
    return replies


def test_a_new_view_is_told_everything_that_is_chosen(state, data):
    base, gene = ask(state, "hello")
    n, n_genes = len(data.arms), len(data.de)
    sizes = [len(one) for one in base.buffers]
    assert sizes == [4 * n, 4 * n, 2 * n, 4 * n, 4 * n_genes, 4 * n_genes, 8 * n_genes, n_genes, n_genes]
    x = np.frombuffer(base.buffers[0], np.float32)
    assert x == pytest.approx(data.arms.table["x"].to_numpy(np.float32), nan_ok=True)
    doubt = np.frombuffer(base.buffers[6], np.float64)
    assert doubt == pytest.approx(data.de["lfsr"].to_numpy(), nan_ok=True)  # may be smaller than float32 can hold
    flags = np.frombuffer(base.buffers[7], np.uint8)
    assert ((flags & 2) > 0).tolist() == data.de["is_de"].tolist()
    assert base.content["genes"] == data.de["gene"].tolist()
    assert gene.content["gene"] == state.gene
    state.choose_side("baseline mean")
    state.choose_pathway("type I interferon response")
    state.select_group("query")
    kinds = [reply.content["kind"] for reply in ask(state, "hello")]
    assert kinds == ["base", "side", "gene", "pathway", "selection"]


def test_a_gene_travels_as_one_byte_a_cell(state):
    (reply,) = ask(state, "gene", GENE)
    values = np.frombuffer(reply.buffers[0], np.uint8) / 254 * reply.content["largest"]
    assert values == pytest.approx(state.values, abs=reply.content["largest"] / 508 + 1e-6)
    table, groups = reply.content["table"], state.groups()
    assert [row[0] for row in table] == groups["n_cells"].tolist()
    assert [row[2] for row in table] == pytest.approx(groups["mean"].tolist(), nan_ok=True)
    assert len(reply.content["dots"]["mean"]) == len(reply.content["dots"]["genes"]) * len(groups)


def test_a_lasso_travels_as_one_bit_a_cell_and_comes_back(state, data):
    table = data.arms.table
    places = table["x"].where(table["role"] == "predicted")
    wanted = (places >= places.median()).to_numpy()
    bits = np.packbits(wanted, bitorder="little").tobytes()
    (reply,) = ask(state, "select", buffers=[memoryview(bits)], serial=7, view="v")
    assert state.mask.tolist() == wanted.tolist()
    assert (reply.content["serial"], reply.content["view"], reply.content["n"]) == (7, "v", wanted.sum())
    assert reply.buffers[0] == bits
    shift = np.frombuffer(reply.buffers[1], np.float32)
    assert shift == pytest.approx(state.shift(), rel=1e-5, nan_ok=True)
    (reply,) = ask(state, "select", serial=8)
    assert (reply.content["n"], reply.buffers) == (0, [])


def test_cells_of_a_side_come_after_those_of_the_run(state, data):
    side, gene = ask(state, "side", "baseline mean")
    assert len(side.buffers[1]) == 2 * 24
    assert len(gene.buffers[0]) == len(data.arms) + 24
    assert side.content["groups"][-1]["role"] == "baseline 'mean'"
    assert [one["role"] for one in side.content["groups"]] == state.groups()["role"].tolist()
    off, _ = ask(state, "side", "")
    assert (off.content["key"], off.buffers) == ("", [])


@pytest.mark.parametrize(
    ("kind", "value", "buffers", "said"),
    [
        ("gene", "NO1", (), "no gene 'NO1'"),
        ("gene", None, (), "no gene 'None'"),
        ("pathway", "x", (), "no pathway 'x'"),
        ("side", "x", (), "no side 'x'"),
        ("group", None, (), "the map holds no 'None' cells"),
        ("select", None, (b"\xff",), "bytes, not 1"),
        ("delete", None, (), "does not know how to 'delete'"),
    ],
)
def test_what_is_refused_is_said_and_changes_nothing(state, kind, value, buffers, said):
    before = (state.gene, state.pathway, state.side, state.mask)
    (reply,) = ask(state, kind, value, buffers)
    assert reply.content["kind"] == "problem"
    assert said in reply.content["message"]
    assert (state.gene, state.pathway, state.side, state.mask) == before
