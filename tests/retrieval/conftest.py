"""A designed atlas: few datasets, every condition listed by hand, counts that name their cell."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from haystack_kernel import keys
from haystack_kernel.knowledge import CellType, Knowledge, PerturbationEntry
from haystack_kernel.schema import Perturbation, RetrievalSettings, RunConfig, StructuredQuery

CD4, CD8, T, TREG, MEMORY, CD4_MEMORY = (
    "CL:0000624",
    "CL:0000625",
    "CL:0000084",
    "CL:0000792",
    "CL:0000813",
    "CL:0000897",
)
B, NK, MONO, CD14, CD16, DC, FIBRO = (
    "CL:0000236",
    "CL:0000623",
    "CL:0000576",
    "CL:0001054",
    "CL:0002396",
    "CL:0000451",
    "CL:0000057",
)
NAMES = {
    "CL:0000000": ("cell", ()),
    "CL:0000738": ("leukocyte", ("CL:0000000",)),
    "CL:0000542": ("lymphocyte", ("CL:0000738",)),
    T: ("T cell", ("CL:0000542",)),
    CD4: ("CD4-positive, alpha-beta T cell", (T,)),
    CD8: ("CD8-positive, alpha-beta T cell", (T,)),
    TREG: ("regulatory T cell", (CD4,)),
    MEMORY: ("memory T cell", (T,)),
    CD4_MEMORY: ("CD4-positive, alpha-beta memory T cell", (CD4, MEMORY)),
    B: ("B cell", ("CL:0000542",)),
    NK: ("natural killer cell", ("CL:0000542",)),
    MONO: ("monocyte", ("CL:0000738",)),
    CD14: ("CD14-positive monocyte", (MONO,)),
    CD16: ("CD14-low, CD16-positive monocyte", (MONO,)),
    DC: ("dendritic cell", ("CL:0000738",)),
    FIBRO: ("fibroblast", ("CL:0000000",)),
}
SYNONYMS = {CD4: ("CD4 T cell", "CD4 T"), CD8: ("CD8 T cell", "CD8 T"), CD16: ("FCGR3A+ monocyte",)}
BLOOD, LUNG, SKIN = ("UBERON:0000178", "blood"), ("UBERON:0002048", "lung"), ("UBERON:0002097", "skin of body")
GENES = ("A1BG", "ISG15", "LYZ")


@pytest.fixture(scope="session")
def knowledge():
    """Sixteen cell types of the Cell Ontology and three cytokines."""
    types = {
        one: CellType(id=one, name=name, parents=parents, synonyms=SYNONYMS.get(one, ()))
        for one, (name, parents) in NAMES.items()
    }

    def cytokine(name, synonyms, targets, family):
        return PerturbationEntry(name, "cytokine", synonyms, targets, {}, {}, {}, family)

    entries = (
        cytokine("IFN-beta", ("interferon beta", "IFNB1"), ("IFNAR1", "IFNAR2"), "type I interferon"),
        cytokine("IFN-omega", ("interferon omega",), ("IFNAR1", "IFNAR2"), "type I interferon"),
        cytokine("TNF-alpha", ("TNF",), ("TNFRSF1A",), "TNF"),
    )
    return Knowledge(types, {one.name: one for one in entries}, {}, {}, {}, version="test", digest="test")


def condition(
    dataset, cl_id, state, donor, n_cells, *, label=None, tissue=BLOOD, disease=("", ""), depth=1500.0, kind=""
):
    """One row of the conditions table; ``state`` "" is the control condition, of the given kind."""
    donor = f"{dataset}:{donor}" if donor else ""
    return {
        keys.ATLAS: "tiny",
        keys.DATASET: dataset,
        keys.CELL_TYPE_ID: cl_id,
        keys.CELL_TYPE: label or NAMES[cl_id][0],
        keys.PERTURBATION: state,
        keys.PERTURBATION_TYPE: "cytokine" if state else "",
        keys.IS_CONTROL: not state,
        keys.TISSUE_ID: tissue[0],
        keys.TISSUE: tissue[1],
        keys.DONOR: donor,
        keys.DONOR_SEX: "",
        keys.DONOR_AGE: "",
        keys.DISEASE_ID: disease[0],
        keys.DISEASE: disease[1],
        keys.CONDITION: state or "ctrl",
        keys.CONTROL_KIND: kind,
        "n_cells": n_cells,
        "median_total_counts": depth,
    }


class FakeAtlas:
    """Implements the Atlas port on a list of conditions; X of a cell is its row number in all three genes."""

    def __init__(self, rows):
        self.table = pd.DataFrame(rows)
        cells = self.table.loc[self.table.index.repeat(self.table["n_cells"])].reset_index(drop=True)
        cells[keys.CELL_INDEX] = range(len(cells))
        cells[keys.CELL_ID] = [
            f"{a}/{d}/{i:05d}"
            for a, d, i in zip(cells[keys.ATLAS], cells[keys.DATASET], cells[keys.CELL_INDEX], strict=True)
        ]
        for column in (keys.CELL_TYPE_ORIGINAL, keys.PERTURBATION_ORIGINAL, keys.TISSUE_ORIGINAL):
            cells[column] = ""
        cells[keys.N_GENES], cells[keys.TOTAL_COUNTS] = 3, 3.0
        self.cells = cells[[keys.CELL_ID, keys.ATLAS, *keys.CELL_COLUMNS]].sort_values(keys.CELL_ID)

    def conditions(self):
        return self.table.copy()

    def select(self, cell_set):
        cells = self.cells
        keep = (cells[keys.ATLAS] == cell_set.atlas) & (cells[keys.DATASET] == cell_set.dataset)
        keep &= cells[keys.IS_CONTROL] == cell_set.is_control
        if cell_set.perturbation is not None:
            keep &= cells[keys.PERTURBATION] == cell_set.perturbation
        if cell_set.cell_type_ids or cell_set.cell_type_names:
            by_id = cells[keys.CELL_TYPE_ID].isin(cell_set.cell_type_ids)
            keep &= by_id | cells[keys.CELL_TYPE].isin(cell_set.cell_type_names)
        groups = {keys.DONOR: "donor_ids", keys.TISSUE_ID: "tissue_ids", keys.DISEASE_ID: "disease_ids"}
        groups[keys.CONTROL_KIND] = "control_kinds"
        for column, field in groups.items():
            if wanted := getattr(cell_set, field):
                keep &= cells[column].isin(wanted)
        return cells[keep].reset_index(drop=True)

    def fetch(self, cells):
        values = np.repeat(cells[keys.CELL_INDEX].to_numpy(dtype=np.float32)[:, None], len(GENES), axis=1)
        return ad.AnnData(
            X=sp.csr_matrix(values), obs=cells.set_index(keys.CELL_ID), var=pd.DataFrame(index=list(GENES))
        )

    def digests(self):
        return {"tiny": "0"}


@pytest.fixture
def row():
    """Make one row of a designed conditions table."""
    return condition


@pytest.fixture
def make_atlas():
    """Make an atlas of such rows."""
    return FakeAtlas


@pytest.fixture
def blood():
    """Study "pbmc": IFN-beta in donors d1, d2 (d3 control only), no treated CD16 monocytes; study "far" without
    controls of B cells; study "drug" with another name of the cytokine and unrecorded donors.
    """
    rows = []
    for cl_id, treated, control in ((CD14, 60, 60), (CD4, 40, 40), (CD8, 10, 12), (B, 15, 15), (DC, 6, 5)):
        for donor in ("d1", "d2"):
            rows += [
                condition("pbmc", cl_id, "IFN-beta", donor, treated),
                condition("pbmc", cl_id, "", donor, control),
            ]
        rows.append(condition("pbmc", cl_id, "", "d3", control))
    rows += [condition("pbmc", CD16, "", donor, 14) for donor in ("d1", "d2", "d3")]
    rows += [
        condition("pbmc", T, "IFN-beta", "d1", 9, label="T cell"),
        condition("pbmc", NK, "IFN-beta", "d1", 2),  # below min_cells
        condition("far", B, "IFN-beta", "x1", 30),
        condition("far", CD14, "", "x2", 30),
        condition("far", CD14, "IFN-beta", "x1", 30),
        condition("drug", B, "interferon beta", "", 25),
        condition("drug", B, "", "", 25),
        condition("pbmc", CD14, "TNF-alpha", "d1", 20),
    ]
    return FakeAtlas(rows)


@pytest.fixture
def ask():
    """Build a query: CL id or None, perturbation name or None, further fields."""

    def build(cl_id, perturbation="IFN-beta", *, task="perturbation_novel_cell_types", **fields):
        treatment = None if perturbation is None else Perturbation(text=perturbation, name=perturbation)
        name = NAMES[cl_id][0] if cl_id in NAMES else None
        return StructuredQuery(
            question="How would these cells respond?",
            task_type=task,
            cell_type_id=cl_id,
            cell_type_name=name,
            perturbation=treatment,
            **fields,
        )

    return build


@pytest.fixture
def settings():
    return RetrievalSettings()


@pytest.fixture
def config():
    return RunConfig(atlases=("tiny",))
