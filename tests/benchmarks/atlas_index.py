"""Rows atlas.build and atlas.search: an index of eleven million synthetic cells, and one question asked of it.

In: a folder; FULL=1 for 10 M + 0.5 M + 0.5 M cells, else a twentieth. Out: rows for ``run.py``. Every measurement is a
process of its own (``atlas_index.py WHAT FOLDER`` prints JSON), so that peak memory is that of the work alone.
"""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

FULL = os.environ.get("FULL") == "1"
SCALE = 1.0 if FULL else 0.05
ATLAS, CHUNK, N_GENES = "eleven", 500_000, 2_000
QUESTIONS = (
    "How would NK cells respond to IFN-beta?",
    "How would B cells respond to dabrafenib?",
    "What would hepatocytes of donor TSP2 look like?",
)
PBMC = (
    *("naive B cell", "memory B cell", "plasmablast", "CD14+ monocyte", "CD16+ monocyte", "classical dendritic cell"),
    *("plasmacytoid dendritic cell", "naive CD4 T cell", "memory CD4 T cell", "regulatory T cell", "naive CD8 T cell"),
    *("memory CD8 T cell", "MAIT cell", "gamma-delta T cell", "NK cell", "ILC", "HSPC", "NKT cell"),
)


# --- the synthetic files --------------------------------------------------------------------------------------------


def draw(n_cells, labels, *, rng, skew=0.6):
    """Codes of a column whose labels have unequal frequencies."""
    weights = rng.gamma(1 / skew, size=len(labels))
    return rng.choice(len(labels), size=n_cells, p=weights / weights.sum()).astype(np.int16)


def columns_of(schema, n_cells, *, rng):
    """obs of one file: column -> (labels, codes), in the words of its schema, with columns nobody asked for."""
    from haystack_kernel.knowledge import load_knowledge

    knowledge = load_knowledge()
    names = {
        kind: [one.name for one in knowledge.perturbations.values() if one.type == kind]
        for kind in ("cytokine", "drug")
    }
    plates = [f"plate_{number}" for number in range(12)]
    wells = [f"{row}{column}" for row in "ABCDEFGH" for column in range(1, 13)]
    if schema == "parse_pbmc":
        labels = {
            "cell_type": PBMC,
            "cytokine": ["PBS", *names["cytokine"][:90]],
            "donor": [f"Donor{number}" for number in range(1, 13)],
            "sample": [f"s{number}" for number in range(1092)],
        }
    elif schema == "openproblems":
        labels = {
            "cell_type": ["B cells", "Myeloid cells", "NK cells", "T cells CD4+", "T cells CD8+", "T regulatory cells"],
            "sm_name": ["Dimethyl Sulfoxide", *names["drug"][:146]],
            "donor_id": ["Donor 1", "Donor 2", "Donor 3"],
        }
    else:
        types = [one for one in knowledge.cell_types.values() if one.parents][:180]
        tissues = [one.name for one in list(knowledge.tissues.values())[:28]]
        labels = {
            "cell_ontology_class": [one.name for one in types],
            "tissue": tissues,
            "donor": [f"TSP{number}" for number in range(1, 25)],
            "method": ["10X", "smartseq2"],
        }
    labels |= {"plate": plates, "well": wells}
    columns = {name: (list(texts), draw(n_cells, texts, rng=rng)) for name, texts in labels.items()}
    if schema == "tabula_sapiens":  # a donor gives some tissues, a tissue holds some types
        donors, tissues = columns["donor"][1], 1 + columns["donor"][1] * 5 + columns["tissue"][1] % 6
        columns["tissue"] = (columns["tissue"][0], (tissues % 28).astype(np.int16))
        types = columns["cell_ontology_class"][1] % 25 + 7 * (tissues % 28)
        columns["cell_ontology_class"] = (columns["cell_ontology_class"][0], (types % 180).astype(np.int16))
        columns["donor"] = (columns["donor"][0], donors)
    return columns


def write_file(path, schema, n_cells):
    """An h5ad with anndata's own layout, written a chunk at a time: obs, an index of barcodes, two counts a cell."""
    import h5py

    rng = np.random.default_rng(len(schema))
    text = h5py.string_dtype()
    with h5py.File(path, "w") as h5:
        h5.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        obs = h5.create_group("obs")
        columns = columns_of(schema, n_cells, rng=rng)
        frame = {"encoding-type": "dataframe", "encoding-version": "0.2.0", "_index": "_index"}
        obs.attrs.update({**frame, "column-order": np.array([*columns, "gene_count"], dtype=object)})
        plain = {"encoding-type": "array", "encoding-version": "0.2.0"}
        strings = {"encoding-type": "string-array", "encoding-version": "0.2.0"}
        for name, (labels, codes) in columns.items():
            group = obs.create_group(name)
            group.attrs.update({"encoding-type": "categorical", "encoding-version": "0.2.0", "ordered": False})
            group.create_dataset("codes", data=codes.astype(np.int8 if len(labels) < 128 else np.int16))
            group.create_dataset("categories", data=labels, dtype=text).attrs.update(strings)
        obs.create_dataset("gene_count", data=rng.integers(500, 4000, n_cells)).attrs.update(plain)
        index = obs.create_dataset("_index", shape=(n_cells,), dtype=text, chunks=(min(CHUNK, n_cells),))
        index.attrs.update(strings)
        x = h5.create_group("X")
        x.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": (n_cells, N_GENES)})
        x.create_dataset("indptr", data=np.arange(0, 2 * n_cells + 1, 2))
        indices, data = (
            x.create_dataset(name, shape=(2 * n_cells,), dtype=kind, chunks=(min(CHUNK, 2 * n_cells),))
            for name, kind in (("indices", np.int32), ("data", np.float32))
        )
        for first in range(0, n_cells, CHUNK):
            last = min(first + CHUNK, n_cells)
            index[first:last] = np.array([f"{number:08d}__s1" for number in range(first, last)], dtype=object)
            genes = rng.integers(0, N_GENES // 2, (last - first, 2)) * 2 + np.arange(2)
            indices[2 * first : 2 * last] = np.sort(genes, axis=1).ravel()
            data[2 * first : 2 * last] = rng.integers(1, 9, 2 * (last - first))
        var = h5.create_group("var")
        var.attrs.update({**frame, "column-order": np.array([], dtype=text)})
        var.create_dataset("_index", data=[f"GENE{number}" for number in range(N_GENES)], dtype=text)
        var["_index"].attrs.update(strings)


def files_of(folder):
    """Schema -> its file, made on first use."""
    sizes = {"parse_pbmc": 10_000_000, "openproblems": 500_000, "tabula_sapiens": 500_000}
    made = {}
    for schema, n_cells in sizes.items():
        made[schema] = folder / f"{schema}_{SCALE:g}.h5ad"
        if not made[schema].exists():
            part = made[schema].with_suffix(".part")
            write_file(part, schema, int(n_cells * SCALE))
            part.replace(made[schema])
    return made


# --- what is measured, each in a process of its own -----------------------------------------------------------------


def build(folder):
    """The whole index: three files into one atlas."""
    from haystack_kernel.atlas import BuildOptions, build_atlas, load_mapping
    from haystack_kernel.knowledge import load_knowledge
    from haystack_kernel.retrieval import prepare_vectors

    knowledge, n_cells = load_knowledge(), 0
    start, used = time.perf_counter(), time.process_time()
    for schema, path in files_of(folder).items():
        report = build_atlas(
            str(path),
            name=ATLAS,
            root=folder,
            mapping=load_mapping(schema),
            knowledge=knowledge,
            options=BuildOptions(dataset=schema, add=True),
        )
        n_cells = report.n_atlas_cells
    prepare_vectors(str(folder), ATLAS, knowledge=knowledge)
    return {"build_s": time.perf_counter() - start, "cpu_s": time.process_time() - used, "n_cells": n_cells}


def read(folder):
    """The reference: anndata reads obs of the same files."""
    import anndata as ad

    start, used = time.perf_counter(), time.process_time()
    tables = [ad.read_h5ad(path, backed="r").obs for path in files_of(folder).values()]
    taken = {"read_s": time.perf_counter() - start, "cpu_s": time.process_time() - used}
    return {**taken, "n_cells": sum(map(len, tables))}


def asked(folder):
    """Arguments of the search but the atlas, for each question; vectors of descriptions are those of the build."""
    from haystack_kernel.config.settings import load_settings
    from haystack_kernel.knowledge import load_knowledge
    from haystack_kernel.planners.offline import OfflinePlanner
    from haystack_kernel.retrieval import vector_folder
    from haystack_kernel.schema import RunConfig

    knowledge = load_knowledge()
    planner = OfflinePlanner(knowledge)
    shared = {"knowledge": knowledge, "settings": load_settings().retrieval, "config": RunConfig()}
    shared["cache"] = vector_folder(str(folder), ATLAS)
    return [(planner.understand(text).value, shared) for text in QUESTIONS]


def told(found):
    """Candidates as plain values."""
    return [(one.key, one.prompt.n_cells, one.control.n_cells if one.control else None) for one in found]


def search(folder):
    """Open the index and ask: seconds to the first answer and to each later one."""
    from haystack_kernel.atlas import open_atlases
    from haystack_kernel.retrieval import search_candidates

    queries = asked(folder)
    start = time.perf_counter()
    atlas = open_atlases([ATLAS], root=folder)
    opened = time.perf_counter() - start
    times, found, used = [], [], []
    for query, shared in [queries[0], *queries]:
        start, before = time.perf_counter(), time.process_time()
        found.append(search_candidates(query, atlas=atlas, **shared))
        times.append(time.perf_counter() - start)
        used.append(time.process_time() - before)
    start = time.perf_counter()
    n_selected = len(atlas.select(found[0][0].prompt))
    selected = time.perf_counter() - start
    return {
        "open_s": opened,
        "first_s": times[0],
        "later_s": max(times[1:]),
        "first_cpu_s": used[0],
        "later_cpu_s": max(used[1:]),
        "select_s": selected,
        "n_selected": n_selected,
        "n_groups": len(atlas.conditions()),
        "strategies": sorted({one.strategy for each in found for one in each}),
        "found": [told(each) for each in found[1:]],
    }


class LoadedObs:
    """The same port over one pandas table of all cells: conditions are counted anew for each question."""

    def __init__(self, obs):
        self.obs = obs

    def conditions(self):
        from haystack_kernel.atlas.index import CONDITION_COLUMNS

        by = self.obs.groupby(list(CONDITION_COLUMNS), observed=True, sort=False)
        table = by.agg(n_cells=("cell_index", "size"), median_total_counts=("total_counts", "median")).reset_index()
        names = [name for name in CONDITION_COLUMNS if name != "is_control"]
        return table.assign(atlas=ATLAS, **{name: table[name].astype(object).fillna("") for name in names})


def count(obs, cell_set):
    """Cells of a set by boolean masks over the whole table."""
    mask = (obs["dataset"] == cell_set.dataset) & (obs["is_control"] == cell_set.is_control)
    if cell_set.perturbation is not None:
        mask &= obs["perturbation_name"] == cell_set.perturbation
    wanted = {"cell_type_cl_id": cell_set.cell_type_ids, "cell_type_name": cell_set.cell_type_names}
    wanted |= {"donor_id": cell_set.donor_ids, "tissue_uberon_id": cell_set.tissue_ids}
    for column, values in wanted.items():
        if values:
            mask &= obs[column].isin(values)
    return int(mask.sum())


def pandas(folder):
    """The reference: the obs of all cells in memory as categoricals, the same search and the same filters on it."""
    import pyarrow.parquet as pq

    from haystack_kernel.retrieval import search_candidates

    path = folder / ATLAS / "cells.parquet"
    texts = [field.name for field in pq.read_schema(next(path.glob("*"))) if str(field.type) == "string"]
    obs = pq.read_table(path, read_dictionary=texts).to_pandas()
    atlas = LoadedObs(obs)
    searches, masks, found, used = [], [], [], []
    for query, shared in asked(folder):
        start, before = time.perf_counter(), time.process_time()
        candidates = search_candidates(query, atlas=atlas, **shared)
        searches.append(time.perf_counter() - start)
        used.append([time.process_time() - before])
        start, before = time.perf_counter(), time.process_time()
        sets = [one for each in candidates for one in (each.prompt, each.control) if one is not None]
        counted = [count(obs, one) for one in sets]
        masks.append(time.perf_counter() - start)
        used[-1].append(time.process_time() - before)
        if counted != [one.n_cells for one in sets]:
            raise SystemExit("the index and the masks count different cells")
        found.append(told(candidates))
    cpu = {"groupby_cpu_s": min(one for one, _ in used), "masks_cpu_s": min(one for _, one in used)}
    return {"groupby_s": min(searches), "masks_s": min(masks), **cpu, "found": found}


def measure(what, folder):
    """Run one of the functions above in a process of its own; its result, with peak memory in GiB."""
    done = subprocess.run(
        [sys.executable, __file__, what, str(folder)], check=True, stdout=subprocess.PIPE, text=True, env=os.environ
    )
    return json.loads(done.stdout.splitlines()[-1])


# --- rows -----------------------------------------------------------------------------------------------------------


def atlas_build(folder):
    """Index of three synthetic files, against anndata reading their obs."""
    files_of(folder)
    ours, reference = measure("build", folder), measure("read", folder)
    n_cells = ours.pop("n_cells")
    reference.pop("n_cells")
    return {
        "work": f"index of {n_cells:,} cells in three schemas, with genes and counts per cell and digests",
        "ours": ours,
        "reference": {f"anndata_obs_{name}": value for name, value in reference.items()},
        "ratio": reference["read_s"] / ours["build_s"],
        "goal": "<= 90 s, <= 6 GB",
        "met": ours["build_s"] <= 90 and ours["peak_gib"] <= 6,
    }


def atlas_search(folder):
    """One question over all cells, against the same search and the same filters on a loaded pandas table."""
    if not (folder / ATLAS).exists():
        measure("build", folder)
    ours, reference = measure("search", folder), measure("pandas", folder)
    if ours.pop("found") != reference.pop("found"):
        raise SystemExit("the index and pandas found different candidates")
    strategies = ", ".join(ours.pop("strategies"))
    one = max(ours["open_s"] + ours["first_s"], ours["later_s"])
    best = reference["groupby_s"]  # the masks alone find nothing: they count sets that are known already
    return {
        "work": f"one question over {ours.pop('n_groups'):,} groups of cells, found by {strategies}",
        "ours": ours,
        "reference": {f"pandas_{name}": value for name, value in reference.items()},
        "ratio": best / one,
        "goal": "<= 1 s, <= 1.5 GB, >= 10x",
        "met": one <= 1 and ours["peak_gib"] <= 1.5 and best / one >= 10,
    }


if __name__ == "__main__":
    result = {"build": build, "read": read, "search": search, "pandas": pandas}[sys.argv[1]](Path(sys.argv[2]))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({**result, "peak_gib": peak}))
