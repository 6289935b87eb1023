"""Names of columns, layers and score components that more than one module uses.

In: nothing. Out: constants.
"""

from __future__ import annotations

# cells.parquet and the obs of every cell set read from an atlas (one row per cell)
CELL_ID = "cell_id"  # "<atlas>/<dataset>/<cell_index>": unique over all atlases, published with every prompt
ATLAS = "atlas"
CELL_INDEX = "cell_index"  # row of the cell in its source file, from 0
DATASET = "dataset"
CELL_TYPE_ORIGINAL = "cell_type_original"
CELL_TYPE_ID = "cell_type_cl_id"
CELL_TYPE = "cell_type_name"
PERTURBATION_ORIGINAL = "perturbation_original"
PERTURBATION = "perturbation_name"
PERTURBATION_TYPE = "perturbation_type"
IS_CONTROL = "is_control"
TISSUE_ORIGINAL = "tissue_original"
TISSUE_ID = "tissue_uberon_id"
TISSUE = "tissue_name"
DONOR = "donor_id"  # prefixed with the dataset: "kang:1256"
DONOR_AGE = "donor_age_category"
DONOR_SEX = "donor_sex"
DISEASE_ID = "disease_mondo_id"
DISEASE = "disease_name"
CONDITION = "sample_condition"
CONTROL_KIND = "control_kind"  # DMSO, PBS, non-targeting, …; of treated cells: of the control stated for them, or ""
N_GENES = "n_genes"
TOTAL_COUNTS = "total_counts"

CELL_COLUMNS = (
    CELL_INDEX,
    DATASET,
    CELL_TYPE_ORIGINAL,
    CELL_TYPE_ID,
    CELL_TYPE,
    PERTURBATION_ORIGINAL,
    PERTURBATION,
    PERTURBATION_TYPE,
    IS_CONTROL,
    TISSUE_ORIGINAL,
    TISSUE_ID,
    TISSUE,
    DONOR,
    DONOR_AGE,
    DONOR_SEX,
    DISEASE_ID,
    DISEASE,
    CONDITION,
    CONTROL_KIND,
    N_GENES,
    TOTAL_COUNTS,
)

# obs of reference cells, which say what types, donors and tissues look like
KINSHIP = "kinship"  # "asked": the type asked for; "related": a broader label that may hold it; "other"
IS_TARGET_DONOR = "is_target_donor"
IS_TARGET_TISSUE = "is_target_tissue"

# differential expression table, one row per gene
GENE = "gene"
DELTA = "delta"  # mean log1p(CP10k) of treated minus control
LOG2FC = "log2fc"  # log2 ratio of mean CP10k, pseudo-count 0.1 CP10k, predicted over control
DETECTION_DIFF = "detection_diff"  # fraction of cells with a count, treated minus control
AUROC = "auroc"
PVAL = "pval"  # two-sided Wilcoxon rank-sum
PADJ = "padj"  # Benjamini-Hochberg over the tested genes; NaN where not tested
IS_TESTED = "is_tested"
IS_DE = "is_de"  # lfsr below the limit
EFFECT = "effect"  # expected true effect in the cells asked about, on the scale of delta; NaN: it cannot be told
EFFECT_SD = "effect_sd"  # its standard deviation
EFFECT_LOW = "effect_low"  # its 80 % interval
EFFECT_HIGH = "effect_high"
LFSR = "lfsr"  # local false sign rate: probability that the effect's sign is not that of ``effect``
PROB_DE = "prob_de"  # P(DE): probability of an effect of more than 0.1, up or down
PADDED = "padded"  # the prediction could not change this gene, because the engine or its prompt lacks it
QUERY_MEAN = "query_mean"  # var of query cells: mean log1p(CP10k) of a fixed number of cells, whatever n_query is
QUERY_DETECTION = "query_detection"  # the same of the fraction of cells with a count
QUERY_ERROR = "query_error"  # the same of the squared standard error of the mean
EXPECTED_LOG = "expected_log"  # var of an output: mean log1p(CP10k) over the counts that could have been drawn

# what a sentence of the confidence begins with that says why no gene is called
NOTHING_CALLED = "Nothing can be called: "

# layers of predictions.h5ad
LAYER_CONTROL_PRED = "control_pred"
LAYER_QUERY = "query"

# uns and varm
UNS = "haystack"
UNS_DE = "rank_genes_groups"
VARM_DE = "haystack_de"  # the whole differential expression table, in the order of the genes

# roles of cells
ROLE = "role"  # column of obs and of tables of cells
PROMPT = "prompt"
CONTROL = "control"
QUERY = "query"
PREDICTED = "predicted"

# score components, in display order
PATHWAY = "pathway_coherence"
TARGET = "target_activation"
LITERATURE = "literature_support"
NETWORK = "network_coherence"
MARKER = "marker_expression"
TISSUE_SIGNATURE = "tissue_signature"
DONOR_EFFECT = "donor_effect"
CELL_TYPE_COHERENCE = "cell_type_coherence"
