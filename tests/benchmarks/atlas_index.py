"""Rows atlas.build and atlas.search: an index of 11 or 100 million synthetic cells, and questions asked of it.

In: a folder; FULL=1 for all cells, else a twentieth. Out: rows for ``run.py``. Every measurement is a process of its
own (``atlas_index.py WHAT FOLDER SIZE`` prints JSON, SIZE being ``eleven`` or ``hundred``), so that peak memory is that
of the work alone. Files and indexes that the folder holds already are used again by everything but ``build``.
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
CHUNK, N_GENES = 500_000, 2_000
ELEVEN = {"parse_pbmc": 10_000_000, "openproblems": 500_000, "tabula_sapiens": 500_000}
# one file of drugs on cell lines, as many as memory has to hold at once, and one with as many donors as a census has
SIZES = {"eleven": ELEVEN, "hundred": {"cell_lines": 79_000_000, "census": 10_000_000, **ELEVEN}}
N_DONORS = 5_000  # of the census
QUESTIONS = (
    "How would NK cells respond to IFN-beta?",
    "How would B cells respond to dabrafenib?",
    "What would hepatocytes of donor TSP2 look like?",
    "How would hepatocytes respond to ruxolitinib?",
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
    limits = np.cumsum(weights / weights.sum())[:-1]
    codes = np.empty(n_cells, dtype=np.int16)
    for first in range(0, n_cells, CHUNK):
        drawn = rng.random(len(codes[first : first + CHUNK]), dtype=np.float32)
        codes[first : first + CHUNK] = np.searchsorted(limits, drawn, side="right")
    return codes


def columns_of(schema, n_cells, *, rng):
    """obs of one file: column -> (labels, codes), in the words of its schema, with columns nobody asked for."""
    from haystack_kernel.knowledge import load_knowledge

    knowledge = load_knowledge()
    names = {
        kind: [one.name for one in knowledge.perturbations.values() if one.type == kind]
        for kind in ("cytokine", "drug")
    }
    types = [one.name for one in knowledge.cell_types.values() if one.parents][:180]
    tissues = [one.name for one in list(knowledge.tissues.values())[:28]]
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
    elif schema == "cell_lines":
        labels = {
            "cell_type": types[:49],
            "drug": ["DMSO_TF", *names["drug"][:379]],
            "cell_line": [f"CVCL_{number:04d}" for number in range(50)],
            "conc": ["0.05", "0.5", "5.0"],
        }
    else:
        donor = "donor" if schema == "tabula_sapiens" else "donor_id"
        n_donors = 24 if schema == "tabula_sapiens" else N_DONORS
        labels = {
            "cell_ontology_class" if schema == "tabula_sapiens" else "cell_type": types,
            "tissue": tissues,
            donor: [f"TSP{number}" for number in range(1, n_donors + 1)],
            "method": ["10X", "smartseq2"],
        }
    labels |= {"plate": plates, "well": wells}
    columns = {name: (list(texts), draw(n_cells, texts, rng=rng)) for name, texts in labels.items()}
    if schema in {"tabula_sapiens", "census"}:  # a donor gives some tissues, a tissue holds some types
        of_type, of_tissue, of_donor = list(columns)[:3]
        donors = columns[of_donor][1]
        drawn = 1 + donors * 5 % 28 + columns[of_tissue][1] % (6 if schema == "tabula_sapiens" else 2)
        columns[of_tissue] = (tissues, (drawn % 28).astype(np.int16))
        columns[of_type] = (types, ((columns[of_type][1] % 25 + 7 * (drawn % 28)) % 180).astype(np.int16))
    elif schema == "cell_lines":  # a line is of one type
        columns["cell_type"] = (columns["cell_type"][0], columns["cell_line"][1] % 49)
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
        obs.create_dataset("gene_count", data=rng.integers(500, 4000, n_cells, dtype=np.int32)).attrs.update(plain)
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
            data[2 * first : 2 * last] = rng.geometric(0.8, 2 * (last - first))  # most counts are 1
        var = h5.create_group("var")
        var.attrs.update({**frame, "column-order": np.array([], dtype=text)})
        var.create_dataset("_index", data=[f"GENE{number}" for number in range(N_GENES)], dtype=text)
        var["_index"].attrs.update(strings)


def files_of(folder, size):
    """Schema -> its file, made on first use."""
    made = {}
    for schema, n_cells in SIZES[size].items():
        made[schema] = folder / f"{schema}_{SCALE:g}.h5ad"
        if not made[schema].exists():
            part = made[schema].with_suffix(".part")
            write_file(part, schema, int(n_cells * SCALE))
            part.replace(made[schema])
    return made


def mapping_of(schema):
    """How the columns of a file are read."""
    from haystack_kernel.atlas import load_mapping

    if schema == "cell_lines":
        columns = {"perturbation_column": "drug", "donor_column": "cell_line", "control": ["DMSO_TF"]}
        return load_mapping("openproblems", **columns, ignore=["conc"])
    return load_mapping("cellxgene" if schema == "census" else schema)


# --- what is measured, each in a process of its own -----------------------------------------------------------------


def build(folder, size):
    """The whole index: all files into one atlas."""
    from haystack_kernel.atlas import BuildOptions, build_atlas
    from haystack_kernel.knowledge import load_knowledge
    from haystack_kernel.retrieval import prepare_vectors

    knowledge, n_cells, parts = load_knowledge(), 0, {}
    start, used = time.perf_counter(), time.process_time()
    for schema, path in files_of(folder, size).items():
        began = time.perf_counter()
        report = build_atlas(
            str(path),
            name=size,
            root=folder,
            mapping=mapping_of(schema),
            knowledge=knowledge,
            options=BuildOptions(dataset=schema, add=True),
        )
        n_cells, parts[f"{schema}_s"] = report.n_atlas_cells, time.perf_counter() - began
    prepare_vectors(str(folder), size, knowledge=knowledge)
    taken = {"build_s": time.perf_counter() - start, "cpu_s": time.process_time() - used}
    return {**taken, **(parts if len(parts) > 3 else {}), "n_cells": n_cells}


def read(folder, size):
    """The reference: anndata reads obs of the same files."""
    import anndata as ad

    start, used = time.perf_counter(), time.process_time()
    tables = [ad.read_h5ad(path, backed="r").obs for path in files_of(folder, size).values()]
    taken = {"read_s": time.perf_counter() - start, "cpu_s": time.process_time() - used}
    return {**taken, "n_cells": sum(map(len, tables))}


def asked(folder, size):
    """Arguments of the search but the atlas, for each question; vectors of descriptions are those of the build."""
    from haystack_kernel.config.settings import load_settings
    from haystack_kernel.knowledge import load_knowledge
    from haystack_kernel.planners.offline import OfflinePlanner
    from haystack_kernel.retrieval import vector_folder
    from haystack_kernel.schema import RunConfig

    knowledge = load_knowledge()
    planner = OfflinePlanner(knowledge)
    shared = {"knowledge": knowledge, "settings": load_settings().retrieval, "config": RunConfig()}
    shared["cache"] = vector_folder(str(folder), size)
    return [(planner.understand(text).value, shared) for text in QUESTIONS[: None if size == "hundred" else 3]]


def told(found):
    """Candidates as plain values."""
    return [(one.key, one.prompt.n_cells, one.control.n_cells if one.control else None) for one in found]


def search(folder, size):
    """Open the index and ask: seconds to the first answer and to each later one."""
    from haystack_kernel.atlas import open_atlases
    from haystack_kernel.retrieval import search_candidates

    queries = asked(folder, size)
    start = time.perf_counter()
    atlas = open_atlases([size], root=folder)
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


def cells(folder, size):
    """The cells of each question in memory: opened, searched, selected, sampled and read, as a round does it."""
    import anndata  # noqa: F401 - what a process imports is not part of its questions

    from haystack_kernel.atlas import open_atlases
    from haystack_kernel.retrieval import assemble_cells, choose_query_cells, search_candidates

    queries = asked(folder, size)
    start, before = time.perf_counter(), time.process_time()
    atlas = open_atlases([size], root=folder)
    opened, opened_cpu = time.perf_counter() - start, time.process_time() - before
    times, used, held, pooled = [], [], [], []
    for query, shared in queries:
        start, before = time.perf_counter(), time.process_time()
        best = search_candidates(query, atlas=atlas, **shared)[:3]
        config = shared["config"]
        chosen = choose_query_cells(query, candidates=best, atlas=atlas, knowledge=shared["knowledge"], config=config)
        found = assemble_cells(best, query_set=chosen, atlas=atlas, config=config, round_number=1)
        times.append(time.perf_counter() - start)
        used.append(time.process_time() - before)
        held.append({role: len(adata) for role, adata in found.by_role.items()})
        sets = [one for each in best for one in (each.prompt, each.control) if one]
        pooled.append(sum(one.n_cells for one in (*sets, chosen)))
    return {
        "open_s": opened,
        "question_s": max(times),
        "question_cpu_s": max(used),
        "each_s": times,
        "open_cpu_s": opened_cpu,
        "n_pooled": pooled,
        "held": held,
    }


class LoadedObs:
    """The same port over one pandas table of all cells: conditions are counted anew for each question."""

    def __init__(self, obs, atlas):
        self.obs, self.atlas = obs, atlas

    def conditions(self):
        from haystack_kernel.atlas.index import CONDITION_COLUMNS

        by = self.obs.groupby(list(CONDITION_COLUMNS), observed=True, sort=False)
        table = by.agg(n_cells=("cell_index", "size"), median_total_counts=("total_counts", "median")).reset_index()
        names = [name for name in CONDITION_COLUMNS if name != "is_control"]
        return table.assign(atlas=self.atlas, **{name: table[name].astype(object).fillna("") for name in names})


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


def pandas(folder, size):
    """The reference: the obs of all cells in memory as categoricals, the same search and the same filters on it."""
    import pyarrow.parquet as pq

    from haystack_kernel.retrieval import search_candidates

    path = folder / size / "cells.parquet"
    texts = [field.name for field in pq.read_schema(next(path.glob("*"))) if str(field.type) == "string"]
    obs = pq.read_table(path, read_dictionary=texts).to_pandas()
    atlas = LoadedObs(obs, size)
    searches, masks, found, used = [], [], [], []
    for query, shared in asked(folder, size):
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


def measure(what, folder, size):
    """Run one of the functions above in a process of its own; its result, with peak memory in GiB."""
    done = subprocess.run(
        [sys.executable, __file__, what, str(folder), size],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ,
    )
    return json.loads(done.stdout.splitlines()[-1])


# --- rows -----------------------------------------------------------------------------------------------------------


def atlas_build(folder, *, size="eleven"):
    """Index of the synthetic files, against anndata reading their obs."""
    files_of(folder, size)
    ours = measure("build", folder, size)
    reference = measure("read", folder, size) if size == "eleven" else None
    n_cells, limit_s = ours.pop("n_cells"), 90 if size == "eleven" else 600
    if reference:
        reference.pop("n_cells")
    return {
        "work": f"index of {n_cells:,} cells in {len(SIZES[size])} files, with genes and counts per cell and digests",
        "ours": ours,
        "reference": reference and {f"anndata_obs_{name}": value for name, value in reference.items()},
        "ratio": reference and reference["read_s"] / ours["build_s"],
        "goal": f"<= {limit_s} s, <= 6 GiB",
        "met": ours["build_s"] <= limit_s and ours["peak_gib"] <= 6,
    }


def atlas_question(folder, *, size="hundred"):
    """Questions from the index to the cells of their roles in memory."""
    if not (folder / size).exists():
        measure("build", folder, size)
    ours = measure("cells", folder, size)
    n_pooled, each = ours.pop("n_pooled"), ours.pop("each_s")
    ours.pop("held")
    one = ours["open_s"] + max(each)
    return {
        "work": f"{len(each)} questions, each with its cells: searched, {max(n_pooled):,} selected, sampled and read",
        "ours": ours,
        "reference": None,
        "ratio": None,
        "goal": "<= 2 s with opening, <= 2 GiB",
        "met": one <= 2 and ours["peak_gib"] <= 2,
    }


def atlas_search(folder, *, size="eleven"):
    """One question over all cells, against the same search and the same filters on a loaded pandas table."""
    if not (folder / size).exists():
        measure("build", folder, size)
    ours, reference = measure("search", folder, size), measure("pandas", folder, size)
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
    what, folder, size = (*sys.argv[1:], "eleven")[:3]
    works = {"build": build, "read": read, "search": search, "cells": cells, "pandas": pandas}
    result = works[what](Path(folder), size)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({**result, "peak_gib": peak}))
