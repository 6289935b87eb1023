"""What the ranks of the NeurIPS 2023 drug screen can show of a screen, and what they cannot.

In: ``neurips2023_ranks_public.h5ad``, ranks of 6,349 genes for 125 drugs in two to four blood cell types. Out: Markdown
tables. Run it as ``python tests/benchmarks/neurips_ranks.py ../shared/data/signatures/neurips2023_ranks_public.h5ad``.

The ranks hold no cells, controls, donors or sizes, so no atlas can be made of them: nothing here says whether sizes,
intervals, expected accuracies or donor tests hold. Two things can be measured. First, a drug in a cell type is
predicted as the mean of its normal scores in the other types (what ``mean`` does), and compared with what was measured.
Second, the response test takes cell types in the place of donors; treatments that do nothing of their own are made by
giving each cell type another drug, which keeps what all drugs share and the correlation of genes.
"""

import argparse
import sys
from pathlib import Path

import anndata as ad
import numpy as np
from scipy.special import ndtri

sys.path.insert(0, str(Path(__file__).parents[2]))

from haystack_kernel.campaign.rank import control_false
from haystack_kernel.grounding.nulls.response import response_null
from haystack_kernel.grounding.uncertainty.prompt import PromptEffects

LEVELS, N_REPEATS = (0.05, 0.1, 0.2), 20


def read(path):
    """Normal scores by drug and cell type, largest for the genes that rise most, and the same without the mean drug."""
    adata = ad.read_h5ad(path)
    ranks = np.asarray(adata.X.todense() if hasattr(adata.X, "todense") else adata.X, dtype=float)
    scores = ndtri((adata.n_vars + 0.5 - ranks) / adata.n_vars)
    drugs, types = adata.obs["perturbation"].to_numpy(str), adata.obs["cell_type"].to_numpy(str)
    centred = scores.copy()
    for name in np.unique(types):
        centred[types == name] -= scores[types == name].mean(axis=0)
    return drugs, types, scores, centred


def show_predictions(drugs, types, scores, centred):
    """How well a drug's response in one type is predicted from its other types."""
    print(
        "| cell type | drugs | r | r of the mean drug | r of another drug | r beyond the mean drug | its rank, median |"
    )
    print("|---|---|---|---|---|---|---|")
    rng = np.random.default_rng(0)
    for name in np.unique(types):
        here = np.flatnonzero(types == name)
        found = []
        for place in here:
            other = (types != name) & (drugs == drugs[place])
            decoy = rng.choice(here[here != place])
            mean = scores[here[here != place]].mean(axis=0)
            own = centred[other].mean(axis=0)
            against = np.corrcoef(np.vstack([own, centred[here]]))[0, 1:]
            rank = 1 + int((against > against[here == place]).sum())
            wrong = scores[(types != name) & (drugs == drugs[decoy])].mean(axis=0)
            pairs = ((scores[other].mean(axis=0), place), (mean, place), (wrong, place))
            found.append([*(np.corrcoef(one, scores[at])[0, 1] for one, at in pairs), against[here == place][0], rank])
        values = np.array(found)
        r = " | ".join(f"{one:.2f}" for one in values[:, :4].mean(axis=0))
        print(f"| {name} | {len(here)} | {r} | {np.median(values[:, 4]):.0f} of {len(here)} |")


def test_of(rows):
    """P value of the response test with cell types in the place of donors."""
    n = len(rows)
    cells = np.full((2, n), 3)
    sums = np.stack([3 * rows, np.zeros_like(rows)])
    squares = np.stack([3 * (rows**2 + 1), np.full_like(rows, 3.0)])
    names = np.array([f"type {one}" for one in range(n)])
    return response_null(PromptEffects(np.full(n, "any"), names, cells, sums, squares)).p


def show_findings(drugs, types, centred):
    """Findings among real drugs and as many made-up ones."""
    names = [name for name in np.unique(drugs) if (drugs == name).sum() >= 3]
    real = np.array([test_of(centred[drugs == name]) for name in names])
    kinds = np.unique(types)
    rng = np.random.default_rng(1)
    print(f"\n{len(names)} drugs were measured in three or four types. p of made-up ones:", end=" ")
    made, rows = [], {level: [] for level in LEVELS}
    for _ in range(N_REPEATS):
        mixed = {kind: rng.permutation(np.flatnonzero((types == kind) & np.isin(drugs, names))) for kind in kinds}
        n = min(len(one) for one in mixed.values())
        false = np.array([test_of(centred[[mixed[kind][i] for kind in kinds]]) for i in range(n)])
        made.append(false)
        q = control_false(np.concatenate([real, false]))
        for level in LEVELS:
            found = q <= level
            rows[level].append((found[: len(real)].sum(), found[len(real) :].sum()))
    every = np.concatenate(made)
    print(", ".join(f"{np.mean(every <= one):.3f} at {one}" for one in (0.01, 0.05, 0.1, 0.2)))
    print("\n| stated rate | real drugs found | made-up ones found | share (mean of " + f"{N_REPEATS} draws) |")
    print("|---|---|---|---|")
    for level, counts in rows.items():
        real_found, false_found = np.array(counts).T
        share = np.mean(false_found / np.maximum(real_found + false_found, 1))
        print(f"| {level} | {real_found.mean():.1f} of {len(real)} | {false_found.mean():.1f} of {n} | {share:.3f} |")


def main():
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, help="file of the ranks")
    drugs, types, scores, centred = read(parser.parse_args().path)
    show_predictions(drugs, types, scores, centred)
    show_findings(drugs, types, centred)


if __name__ == "__main__":
    main()
