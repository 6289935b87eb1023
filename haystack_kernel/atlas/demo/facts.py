"""Constants of the simulated world: what was measured on real cells, and which cells, donors and treatments it has.

In: nothing. Out: constants and small frozen records; no fact here is read by anything that scores a prediction.
"""

from __future__ import annotations

from dataclasses import dataclass

DEMO_VERSION = 1  # raise it whenever the simulated counts change
SEEDS_TUNING = range(100)  # "A": whatever is tuned or trained, is tuned or trained on these worlds
SEEDS_REPORTING = range(1000, 1100)  # "B": numbers that are reported come from these, never looked at before
DEMO_SEED = 5  # first of A in which four well-known treatments act as the literature says, see world.py

# Measured on Kang 2018 (GEO GSE96583, PBMC with and without IFN-beta), restricted to 1,985 genes of genes.txt.
KANG_MEDIAN_COUNTS = {"lymphoid": 1030.0, "myeloid": 2000.0}  # CD4 T and B cells; CD14+ monocytes
KANG_SD_LOG_COUNTS = {"lymphoid": 0.25, "myeloid": 0.31}  # natural log, within cell type
KANG_DISPERSION = (0.12, 0.11)  # variance = mu + phi mu^2 with phi = a + b / mu: median over genes, .1 < mu < 20
KANG_MAX_DISPERSION = 2.0  # genes below .1 counts per cell, where the estimate is mostly noise
KANG_ABUNDANCE = {  # quantile of gene -> mean counts per 10,000 in unstimulated PBMC
    0.0: 0.01,
    0.10: 0.016,
    0.25: 0.081,
    0.50: 0.476,
    0.75: 2.14,
    0.90: 6.48,
    0.95: 17.4,
    0.98: 38.4,
    0.99: 61.2,
    0.995: 76.8,
    1.0: 1467.0,
}
KANG_DENSITY = {"lymphoid": 0.14, "myeloid": 0.19}  # share of entries that are not zero


@dataclass(frozen=True)
class CellTypeFact:
    """A cell type of the world; ``lineage`` from the root of the tree down, ``depth`` a key of KANG_MEDIAN_COUNTS."""

    id: str
    name: str
    lineage: tuple[str, ...]
    depth: str
    frac_cycling: float


def _blood(cl_id: str, name: str, lineage: str, frac_cycling: float = 0.02) -> CellTypeFact:
    path = tuple(lineage.split())
    return CellTypeFact(cl_id, name, ("blood", *path), path[0], frac_cycling)


def _tissue(cl_id: str, name: str, lineage: str, frac_cycling: float = 0.03) -> CellTypeFact:
    return CellTypeFact(cl_id, name, tuple(lineage.split()), "myeloid", frac_cycling)  # large cells: monocytes' depth


CELL_TYPES = (
    _blood("CL:0000895", "naive thymus-derived CD4-positive, alpha-beta T cell", "lymphoid T CD4"),
    _blood("CL:0000897", "CD4-positive, alpha-beta memory T cell", "lymphoid T CD4"),
    _blood("CL:0000624", "CD4-positive, alpha-beta T cell", "lymphoid T CD4"),
    _blood("CL:0000815", "regulatory T cell", "lymphoid T CD4", 0.05),
    _blood("CL:0000909", "CD8-positive, alpha-beta memory T cell", "lymphoid T CD8"),
    _blood("CL:0000625", "CD8-positive, alpha-beta T cell", "lymphoid T CD8"),
    _blood("CL:0000623", "natural killer cell", "lymphoid NK", 0.04),
    _blood("CL:0000788", "naive B cell", "lymphoid B"),
    _blood("CL:0000236", "B cell", "lymphoid B"),
    _blood("CL:0000860", "classical monocyte", "myeloid monocyte"),
    _blood("CL:0002396", "CD14-low, CD16-positive monocyte", "myeloid monocyte"),
    _blood("CL:0000766", "myeloid leukocyte", "myeloid monocyte"),
    _blood("CL:0000990", "conventional dendritic cell", "myeloid dendritic"),
    _blood("CL:0000583", "alveolar macrophage", "myeloid macrophage", 0.04),
    _tissue("CL:0002553", "fibroblast of lung", "stroma fibroblast"),
    _tissue("CL:0002620", "skin fibroblast", "stroma fibroblast"),
    _tissue("CL:0000115", "endothelial cell", "stroma endothelium"),
    _tissue("CL:0002063", "type II pneumocyte", "epithelium lung"),
    _tissue("CL:0000312", "keratinocyte", "epithelium skin", 0.08),
    _tissue("CL:0000182", "hepatocyte", "epithelium liver", 0.01),
)

# label in the file -> (world cell type, cells per donor and treatment)
CYTOKINE_LABELS = {
    "CD4 Naive": ("CL:0000895", 12),
    "CD4 Memory": ("CL:0000897", 12),
    "CD8 Memory": ("CL:0000909", 9),
    "NK": ("CL:0000623", 9),
    "B Naive": ("CL:0000788", 9),
    "CD14 Mono": ("CL:0000860", 12),
    "CD16 Mono": ("CL:0002396", 8),
    "cDC": ("CL:0000990", 8),
}
DRUG_LABELS = {
    "T cells CD4+": ("CL:0000624", 22),
    "T cells CD8+": ("CL:0000625", 16),
    "T regulatory cells": ("CL:0000815", 10),
    "NK cells": ("CL:0000623", 16),
    "B cells": ("CL:0000236", 16),
    "Myeloid cells": ("CL:0000766", 22),
}
TISSUE_CELLS = (  # tissue, label and world cell type, cells per donor
    ("Lung", "fibroblast of lung", "CL:0002553", 60),
    ("Lung", "type ii pneumocyte", "CL:0002063", 50),
    ("Lung", "alveolar macrophage", "CL:0000583", 50),
    ("Lung", "endothelial cell", "CL:0000115", 40),
    ("Liver", "hepatocyte", "CL:0000182", 60),
    ("Liver", "endothelial cell", "CL:0000115", 30),
    ("Skin", "keratinocyte", "CL:0000312", 50),
    ("Skin", "skin fibroblast", "CL:0002620", 40),
    ("Blood", "nk cell", "CL:0000623", 50),
    ("Blood", "b cell", "CL:0000236", 40),
    ("Blood", "cd4-positive, alpha-beta t cell", "CL:0000624", 50),
    ("Blood", "cd8-positive, alpha-beta t cell", "CL:0000625", 40),
    ("Blood", "classical monocyte", "CL:0000860", 50),
)
TISSUE_DONORS = {"TSP1": "male", "TSP2": "female", "TSP4": "male", "TSP7": "female", "TSP14": "male"}

N_CYTOKINE_DONORS = 12
DONORS_PER_CYTOKINE = 8
PBS_FACTOR = 1.5  # times as many cells as a treatment has
DMSO_FACTOR = 2.0
CYTOKINES = (  # spelt as in the Parse 10M PBMC data set
    "IFN-beta", "IFN-alpha1", "IFN-gamma", "TNF-alpha", "IL-1-beta", "IL-2", "IL-3", "IL-4", "IL-6", "IL-7", "IL-10",
    "IL-12", "IL-13", "IL-15", "IL-17A", "IL-18", "IL-21", "IL-22", "IL-27", "IL-33", "TGF-beta1", "GM-CSF", "G-CSF",
    "M-CSF", "OSM", "LIF", "EGF", "BAFF", "CD40L", "TSLP",
)  # fmt: skip
DRUGS = {  # small molecule -> SMILES
    "Ruxolitinib": "N#CC[C@H](C1CCCC1)n1cc(cn1)-c1ncnc2[nH]ccc12",
    "Tofacitinib": "C[C@@H]1CCN(C[C@@H]1N(C)c1ncnc2[nH]ccc12)C(=O)CC#N",
    "Baricitinib": "CCS(=O)(=O)N1CC(CC#N)(C1)n1cc(cn1)-c1ncnc2[nH]ccc12",
    "Vorinostat": "ONC(=O)CCCCCCC(=O)Nc1ccccc1",
    "Belinostat": "ONC(=O)/C=C/c1cccc(c1)S(=O)(=O)Nc1ccccc1",
    "Panobinostat": "Cc1[nH]c2ccccc2c1CCNCc1ccc(/C=C/C(=O)NO)cc1",
    "Entinostat": "Nc1ccccc1NC(=O)c1ccc(CNC(=O)OCc2cccnc2)cc1",
    "Trichostatin A": "C[C@H](/C=C(\\C)/C=C/C(=O)NO)C(=O)c1ccc(cc1)N(C)C",
    "Prednisolone": "C[C@]12C[C@H](O)[C@H]3[C@@H](CCC4=CC(=O)C=C[C@]34C)[C@@H]1CC[C@]2(O)C(=O)CO",
    "Dexamethasone": "C[C@@H]1C[C@H]2[C@@H]3CCC4=CC(=O)C=C[C@]4(C)[C@@]3(F)[C@@H](O)C[C@]2(C)[C@@]1(O)C(=O)CO",
    "Trametinib": "CC1=C2C(=C(N(C1=O)C)NC3=C(C=C(C=C3)I)F)C(=O)N(C(=O)N2C4=CC=CC(=C4)NC(=O)C)C5CC5",
    "Selumetinib": "Cn1cnc2c(F)c(Nc3ccc(Br)cc3Cl)c(cc12)C(=O)NOCCO",
    "Dabrafenib": "CC(C)(C)c1nc(c(s1)-c1ccnc(N)n1)-c1cccc(NS(=O)(=O)c2c(F)cccc2F)c1F",
    "Dasatinib": "Cc1nc(Nc2ncc(s2)C(=O)Nc2c(C)cccc2Cl)cc(n1)N1CCN(CCO)CC1",
    "Bosutinib": "COc1cc(Nc2c(cnc3cc(OCCCN4CCN(C)CC4)c(OC)cc23)C#N)c(Cl)cc1Cl",
    "Imatinib": "Cc1ccc(NC(=O)c2ccc(CN3CCN(C)CC3)cc2)cc1Nc1nccc(n1)-c1cccnc1",
    "Idelalisib": "CC[C@H](Nc1ncnc2[nH]cnc12)c1nc2cccc(F)c2c(=O)n1-c1ccccc1",
    "Bortezomib": "CC(C)C[C@H](NC(=O)[C@H](Cc1ccccc1)NC(=O)c1cnccn1)B(O)O",
    "Methotrexate": "CN(Cc1cnc2nc(N)nc(N)c2n1)c1ccc(cc1)C(=O)N[C@@H](CCC(O)=O)C(O)=O",
    "Palbociclib": "CC(=O)c1c(C)c2cnc(Nc3ccc(cn3)N3CCNCC3)nc2n(C2CCCC2)c1=O",
    "Olaparib": "Fc1ccc(Cc2n[nH]c(=O)c3ccccc23)cc1C(=O)N1CCN(CC1)C(=O)C1CC1",
    "Lapatinib": "CS(=O)(=O)CCNCc1ccc(o1)-c1ccc2ncnc(Nc3ccc(OCc4cccc(F)c4)c(Cl)c3)c2c1",
    "Gefitinib": "COc1cc2ncnc(Nc3ccc(F)c(Cl)c3)c2cc1OCCCN1CCOCC1",
    "Lenalidomide": "Nc1cccc2C(=O)N(Cc12)C1CCC(=O)NC1=O",
}
DMSO = ("Dimethyl Sulfoxide", "CS(C)=O")
CONFOUNDED_PLATE = "plate_2"  # its treated wells hold cells of donor_2, its DMSO wells those of the other donors
MATCHED_PLATE = "plate_1"
CONFOUNDED_DONOR = "donor_2"
MATCHED_DONORS = ("donor_0", "donor_1")

# correlated nuisance: genes that move together for reasons that have nothing to do with any treatment
NUISANCE = {
    "cell_cycle": [
        "MKI67",
        "TOP2A",
        "CCNB1",
        "CCNB2",
        "CCNA2",
        "CDK1",
        "CDC20",
        "BIRC5",
        "TYMS",
        "RRM2",
        "PCNA",
        "MCM3",
        "MCM5",
        "MCM7",
        "TK1",
        "UBE2C",
        "CENPF",
        "AURKB",
        "TPX2",
        "NUSAP1",
        "STMN1",
        "TUBA1B",
        "HMGB2",
        "H2AZ1",
        "ZWINT",
        "CKS1B",
        "CKS2",
        "TUBB",
    ],
    "dissociation_stress": [
        "FOS",
        "FOSB",
        "JUN",
        "JUNB",
        "JUND",
        "EGR1",
        "ATF3",
        "IER2",
        "IER3",
        "DUSP1",
        "ZFP36",
        "HSPA1A",
        "HSPA1B",
        "HSP90AA1",
        "HSP90AB1",
        "DNAJA1",
        "DNAJB1",
        "HSPE1",
        "HSPH1",
        "BTG2",
        "KLF6",
        "NR4A1",
        "PPP1R15A",
        "GADD45B",
        "UBC",
    ],
    "donor_inflammation": [
        "IL1B",
        "CXCL8",
        "CXCL2",
        "CXCL3",
        "CCL3",
        "CCL4",
        "NFKBIA",
        "TNFAIP3",
        "PTGS2",
        "SOD2",
        "ICAM1",
        "PLAUR",
        "S100A8",
        "S100A9",
        "S100A12",
        "IL1RN",
        "IFITM3",
        "ISG15",
        "LY6E",
        "IFI6",
        "NAMPT",
        "BCL2A1",
    ],
}
