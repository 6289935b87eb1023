"""Metrics of cell-eval2 (profile vcc2026) and of cell-eval as JSON, run by the Python of an environment that has both.

In: files of predicted and measured cells, the pseudo-count of fold changes in CPM, whose control cells the prediction
is compared with (``real``, ``pred``). Out: metric -> treatment -> value, then the ratios over treatments.
"""

import json
import logging
import sys
import warnings
from dataclasses import replace

import anndata as ad
import scanpy as sc
from cell_eval._types._anndata import PerturbationAnndataPair
from cell_eval.metrics import mse_delta, pearson_delta
from cell_eval2 import compute_metrics
from cell_eval2.config import EvalConfig
from cell_eval2.run import aggregate_metrics

warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)


def newest(predicted, measured, *, pseudo, control_source):
    """Metrics of cell-eval2; no treatment is the name of a gene that it acts on."""
    config = EvalConfig.from_preset("vcc2026")
    config = replace(
        config,
        cache_strict=False,
        control_source=control_source,
        target_gene_map={"*": None},
        device="cpu",
        num_threads=1,
        de=replace(config.de, backend="scanpy", epsilon=pseudo),
    )
    table = compute_metrics(predicted, measured, config=config)
    found = {}
    for row in table.iter_rows(named=True):
        found.setdefault(row["metric"], {})[row["perturbation"]] = row["value"]
    try:
        whole = aggregate_metrics(table)
    except ValueError as error:  # the measured changes are no larger than their noise
        return found | {"refused": str(error)}
    return found | {f"all {row['metric']}": row["mean"] for row in whole.iter_rows(named=True)}


def first(predicted, measured):
    """Correlation and error of changes by cell-eval, on log1p of counts per 10,000."""
    cells = []
    for path in (predicted, measured):
        adata = ad.read_h5ad(path)
        sc.pp.normalize_total(adata, target_sum=1e4)
        sc.pp.log1p(adata)
        cells.append(adata)
    pair = PerturbationAnndataPair(pred=cells[0], real=cells[1], pert_col="target", control_pert="non-targeting")
    return {"pearson": pearson_delta(pair), "squared error": mse_delta(pair)}


def main():
    """Print one JSON object."""
    predicted, measured, pseudo, control_source = sys.argv[1:]
    found = newest(predicted, measured, pseudo=float(pseudo), control_source=control_source)
    found |= {name: {str(k): float(v) for k, v in one.items()} for name, one in first(predicted, measured).items()}
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
