"""Whether measuring what is proposed makes the top of a list better, on measured cells that were held out.

In: the folder of public perturbation data. Out: a Markdown table. Run it as
``python tests/benchmarks/next_experiment.py ../shared/data/perturbation``.

Papalexi: a list of 17 knock-outs by size, in a replicate that is hidden; Kang: a list of cell types by how strongly
they respond to IFN-beta, each predicted from the others. Half of the hidden cells are what is measured, the other are
the truth. What is proposed is compared with every other choice of as many pairs.
"""

import argparse
import itertools
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[2]))

from haystack_kernel import keys
from haystack_kernel.campaign.judge import response_size
from haystack_kernel.campaign.next import next_experiments
from haystack_kernel.grounding import GroundingCells
from haystack_kernel.grounding.confidence.accuracy import expect_accuracy
from haystack_kernel.grounding.uncertainty.calls import SQUARE, SQUARE_ERROR, call_genes, study_prompt
from haystack_kernel.grounding.uncertainty.transfer import INTERVAL
from inference.draw import log_normalise
from inference.effects import measure_effect, summarise_arm

ENGINE, SEED, MIN_CELLS = "weighted", 3, 10


def read(path):
    """Cells with the labels that grounding knows."""
    adata = ad.read_h5ad(path)
    adata.X = adata.X.tocsr()
    labels = adata.obs[["cell_type", "donor_id", "perturbation"]].astype(str)
    adata.obs = labels.rename(columns={"cell_type": keys.CELL_TYPE, "donor_id": keys.DONOR})
    return adata[~labels["cell_type"].str.contains("unresolved").to_numpy()].copy()


def expected_size(prompt, control, query):
    """Size with its error, the expected correlation, and the genes it is of."""
    detection = np.max([np.asarray((one.X > 0).mean(axis=0)).ravel() for one in (prompt, control, query)], axis=0)
    by_role = GroundingCells(query, None, query, prompt, control)
    studied = study_prompt(by_role, engine=ENGINE, detection=detection, min_detection=0.02)
    de = pd.DataFrame({keys.GENE: query.var_names, keys.DELTA: 0.0})
    attrs = call_genes(de, studied=studied, engine=ENGINE, max_lfsr=0.05).attrs
    own = expect_accuracy(studied, query=query, engine=ENGINE, similarity=np.nan).value
    return *response_size(attrs[SQUARE], attrs[SQUARE_ERROR], within=own), own, studied.is_known


def measured_size(treated, control, genes):
    """Root mean square of a measured response beyond its noise."""
    arms = [summarise_arm(log_normalise(one.X)[:, np.flatnonzero(genes)]) for one in (treated, control)]
    effect = measure_effect(*arms)
    return float(np.sqrt(max(np.mean(effect.delta**2 - effect.se**2), 0.0)))


def halves(adata, rng):
    """Two random halves."""
    order = rng.permutation(adata.n_obs)
    return adata[np.sort(order[: len(order) // 2])].copy(), adata[np.sort(order[len(order) // 2 :])].copy()


def lists(folder):
    """(name, list) with columns of a campaign, what would be measured, and the truth."""
    rng = np.random.default_rng(SEED)
    papalexi = read(folder / "papalexi_thp1_299genes_public.h5ad")
    guides, donors = papalexi.obs["perturbation"].to_numpy(), papalexi.obs[keys.DONOR].to_numpy()
    for hidden in np.unique(donors):
        own, rows = donors == hidden, []
        query, control = halves(papalexi[own & (guides == "control")], rng)
        for guide in np.unique(guides[guides != "control"]):
            if min((own & (guides == guide)).sum(), (~own & (guides == guide)).sum()) < 2 * MIN_CELLS:
                continue
            prompt = papalexi[~own & (guides == guide)].copy(), papalexi[~own & (guides == "control")].copy()
            rows.append(row_of(guide, "THP-1", prompt, query, papalexi[own & (guides == guide)], control, rng))
        yield f"Papalexi, replicate {hidden} hidden", pd.DataFrame(rows)
    kang = read(folder / "kang2018_ifnb_public.h5ad")
    kinds, treated, rows = kang.obs[keys.CELL_TYPE].to_numpy(), kang.obs["perturbation"].to_numpy() != "control", []
    for kind in np.unique(kinds):
        own = kinds == kind
        if min((own & treated).sum(), (own & ~treated).sum()) < 2 * MIN_CELLS:
            continue
        query, control = halves(kang[own & ~treated], rng)
        prompt = kang[~own & treated].copy(), kang[~own & ~treated].copy()
        rows.append(row_of("IFN-beta", kind, prompt, query, kang[own & treated], control, rng))
    yield "Kang, a cell type hidden", pd.DataFrame(rows)


def row_of(perturbation, cell_type, prompt, query, treated, control, rng):
    """One row of a list."""
    size, sd, r, genes = expected_size(*prompt, query)
    one, two = halves(treated, rng)
    found = {"perturbation": perturbation, "cell_type": cell_type, "size": size, "size_sd": sd, "expected_r": r}
    sizes = {"seen": measured_size(one, query, genes), "true": measured_size(two, control, genes)}
    return found | sizes | {"n_tested": int(genes.sum()), "n_cells": one.n_obs, "number": 0}


def judge(table, *, top, n_measured, n_cells):
    """The top's true sizes after measuring what is proposed, and after every other choice."""
    table = table.assign(number=range(len(table)))
    rows = next_experiments(table, top=top, n_donors=1, n_cells=n_cells).table.set_index("number")
    size, true = (table[name].to_numpy() for name in ("size", "true"))

    def after(numbers):
        now = size.copy()
        for number in numbers:
            row = rows.loc[number]
            noise = 1 / (1 / row["sd_after"] ** 2 - 1 / row["sd"] ** 2)
            now[number] = row["sd_after"] ** 2 * (row["value"] / row["sd"] ** 2 + table["seen"][number] / noise)
        return true[np.argsort(-now, kind="stable")[:top]].sum()

    others = [after(numbers) for numbers in itertools.combinations(range(len(table)), n_measured)]
    return after(()), after(rows.index[:n_measured]), np.mean(others), np.sort(true)[-top:].sum()


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of the public perturbation files")
    print(
        "| list | pairs | size in its 80 % interval | rank correlation | top, measured | true sizes of the top now "
        "| after the proposed | after any others, mean | best possible |\n|---|---|---|---|---|---|---|---|---|"
    )
    for name, table in lists(parser.parse_args().folder):
        inside = int(((table["true"] - table["size"]).abs() <= INTERVAL * table["size_sd"]).sum())
        r = table["size"].corr(table["true"], "spearman")
        for top, n_measured in ((2, 1), (2, 2)) if "Kang" in name else ((3, 2), (5, 3)):
            n_cells = int(table["n_cells"].median())
            values = " | ".join(f"{one:.3f}" for one in judge(table, top=top, n_measured=n_measured, n_cells=n_cells))
            print(f"| {name} | {len(table)} | {inside} | {r:.2f} | {top}, {n_measured} | {values} |")


if __name__ == "__main__":
    main()
