"""How often wells alone reach a high score: every donor and condition is a well whose modules differ by chance.

In: an h5ad of control cells of one type, number of draws. Out: a Markdown table on stdout. Run it as
``python -m tools.well_nulls kang2018_ifnb_public.h5ad``.

Control cells are dealt to donors and to two conditions, and every well multiplies each pathway of the tables by exp of
a normal number. Nothing is treated, so a component at 7 or more is false; at its nominal rate one in 200 is. ``cells``
counts the permuted cells and the competitive null alone, ``donors`` the score as it is, with the test over donors. For
the power the asked response is added to every treated well. With ``--apart`` the two sides are different people, each
in one well, as where one group of donors is compared with another.
"""

import argparse
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from haystack_kernel import keys
from haystack_kernel.grounding import GroundingContext
from haystack_kernel.grounding.components.compute import compute_components
from haystack_kernel.grounding.components.expected import expected_sets
from haystack_kernel.grounding.components.score import score_from_p
from haystack_kernel.grounding.de.table import compute_de
from haystack_kernel.grounding.nulls.self_contained import self_contained_null
from haystack_kernel.grounding.records import Basis
from haystack_kernel.knowledge import load_knowledge
from haystack_kernel.schema import GroundingSettings, Perturbation, StructuredQuery

HIGH = 7.0
SPREADS, EFFECT = (0.1, 0.2), 0.5
COMPONENTS = (keys.PATHWAY, keys.TARGET, keys.NETWORK)


def ask(name, knowledge):
    """The query for a treatment of the tables."""
    known = knowledge.perturbations[name]
    return StructuredQuery(
        question=f"How would cells respond to {name}?",
        task_type="perturbation_novel_cell_types",
        perturbation=Perturbation(text=name, name=name, type=known.type, targets=known.targets),
        expected_targets=known.response,
        expected_pathways=known.pathways,
    )


def module_matrix(genes, knowledge):
    """Pathways x genes: +1 or -1 where a gene belongs to one."""
    place = {gene: column for column, gene in enumerate(genes)}
    rows = [
        (place[g], sign, row)
        for row, one in enumerate(knowledge.pathways.values())
        for g, sign in one.genes.items()
        if g in place
    ]
    columns, signs, numbers = zip(*rows, strict=True)
    return sparse.csr_matrix((signs, (numbers, columns)), shape=(len(knowledge.pathways), len(genes)))


def deal(adata, *, n_donors, rng):
    """Donor and condition of every cell, as equal in size as can be."""
    wells = rng.permutation(np.arange(adata.n_obs) % (2 * n_donors))
    return wells, wells % 2 == 0


def multiply(counts, factor, *, rng):
    """Counts of one well whose expected value is multiplied by ``factor`` gene by gene."""
    dense = counts.toarray()
    share = dense.sum(axis=0) / dense.sum()
    less = rng.binomial(dense.astype(np.int64), np.minimum(factor, 1.0))
    more = rng.poisson(np.maximum(factor - 1.0, 0.0) * share * dense.sum(axis=1, keepdims=True))
    return sparse.csr_matrix((less + more).astype(np.float32))


def draw(adata, modules, *, n_donors, spread, response, rng, apart=False):
    """Prompt and control cells of one draw; ``apart``: each well is a donor of its own."""
    wells, is_treated = deal(adata, n_donors=n_donors, rng=rng)
    parts, order = [], []
    for well in range(2 * n_donors):
        rows = np.flatnonzero(wells == well)
        activity = modules.T @ rng.normal(0, spread, size=modules.shape[0])
        if well % 2 == 0:
            activity = activity + response
        parts.append(multiply(adata.X[rows], np.exp(activity), rng=rng))
        order.append(rows)
    order = np.concatenate(order)
    obs = pd.DataFrame(
        {keys.DONOR: [f"d{well if apart else well // 2}" for well in wells[order]], keys.CELL_TYPE: "cell"}
    )
    obs.index = [f"c{i}" for i in range(len(obs))]
    cells = ad.AnnData(sparse.vstack(parts, format="csr"), obs=obs, var=pd.DataFrame(index=adata.var_names))
    return cells[is_treated[order]].copy(), cells[~is_treated[order]].copy()


def score(prompt, control, basis, *, within):
    """Scores of the components from the cells alone, and with donors; NaN where one is not computed."""
    genes = list(prompt.var_names)
    de = compute_de(prompt.X, control.X, genes=genes, padded=np.zeros(len(genes), bool), settings=basis.settings)
    de[keys.IS_DE] = False
    tested = set(de.loc[de[keys.IS_TESTED], keys.GENE])
    null = self_contained_null(
        prompt,
        control,
        sets=expected_sets(basis),
        tested=tested,
        n_draws=basis.settings.n_draws,
        seed=0,
        within=within,
    )
    found = [one for one in compute_components(de, self_contained=null, basis=basis) if one.name in COMPONENTS]
    of_cells = [score_from_p(float(np.nanmax([one.p_signal, one.p_specificity]))) for one in found]
    return of_cells, [one.score for one in found]


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.well_nulls", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("h5ad", type=Path, help="cells with columns cell_type and perturbation")
    parser.add_argument("--cell-type", default="CD14+ monocyte", help="cell type whose control cells are dealt")
    parser.add_argument("--treatment", default="IFN-beta", help="treatment that is asked for")
    parser.add_argument("--draws", type=int, default=100, help="number of draws per row")
    parser.add_argument("--donors", type=int, nargs="+", default=[3, 4, 8], help="numbers of donors")
    parser.add_argument("--apart", action="store_true", help="treated and control cells are of different donors")
    parser.add_argument("--seed", type=int, default=0, help="random seed")
    options = parser.parse_args()
    adata = ad.read_h5ad(options.h5ad)
    labels = adata.obs[["cell_type", "perturbation"]].astype(str)
    chosen = (labels["cell_type"] == options.cell_type) & (labels["perturbation"] == "control")
    adata = adata[chosen.to_numpy()].copy()
    adata = adata[:, np.asarray(adata.X.sum(axis=0)).ravel() > 0].copy()
    knowledge = load_knowledge()
    basis = Basis(
        ask(options.treatment, knowledge), knowledge, GroundingSettings(n_draws=999), GroundingContext(seed=0)
    )
    modules = module_matrix(adata.var_names, knowledge)
    asked = np.array([basis.query.expected_targets.get(gene, 0.0) for gene in adata.var_names])
    rng = np.random.default_rng(options.seed)
    within = (keys.CELL_TYPE,) if options.apart else (keys.DONOR, keys.CELL_TYPE)
    print("| donors | spread of wells | false at 7 or more: cells | donors | power at 7 or more: cells | donors |")
    print(f"|{'---|' * 6}", flush=True)
    for n_donors in options.donors:
        for spread in SPREADS:
            shown = []
            for response in (np.zeros(len(asked)), EFFECT * asked):
                setup = {"n_donors": n_donors, "spread": spread, "response": response}
                drawn = (draw(adata, modules, **setup, rng=rng, apart=options.apart) for _ in range(options.draws))
                scores = [score(*cells, basis, within=within) for cells in drawn]
                shown += [
                    f"{np.nanmean(np.array(side, dtype=float) >= HIGH):.1%}" for side in zip(*scores, strict=True)
                ]
            print(f"| {n_donors} | {spread:g} | {' | '.join(shown)} |", flush=True)


if __name__ == "__main__":
    main()
