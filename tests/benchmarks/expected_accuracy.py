"""How near the expected accuracy comes to the accuracy against cells that were held out.

In: the folder of public perturbation data. Out: a Markdown table, one row per data set and kind of question.

Held out are donors that give no prompt cell (Kang, one or two donors as prompt; panobinostat, one patient; Papalexi,
one replicate), cells of another file (Kang's further 9,015 genes), or all but a few cells of one type. Truth controls
are never query cells. With a folder of healthy cells, questions about a state of cells follow: a cell type predicted
from another one of the donor (learned from the other donors), and a type of a donor from his other types. ``error`` is
the mean of |expected - r|, where the expected accuracy is multiplied by the root of the held-out measurement's
reliability; ``covered`` counts 80 % intervals around r divided by that root.
"""

import argparse
import itertools
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

from haystack_kernel import keys
from haystack_kernel.grounding import GroundingCells
from haystack_kernel.grounding.confidence.accuracy import MIN_RELIABILITY, expect_accuracy
from haystack_kernel.grounding.uncertainty.calls import study_prompt
from inference.draw import log_normalise
from inference.effects import summarise_arm

ENGINE, MIN_DETECTION, MIN_TRUTH = "weighted", 0.02, 10


def read(path):
    """Cells with the names of columns that grounding knows; ``treated`` marks the treated ones."""
    adata = ad.read_h5ad(path)
    labels = adata.obs[["cell_type", "donor_id", "perturbation"]].astype(str)
    adata.obs = labels.rename(columns={"cell_type": keys.CELL_TYPE, "donor_id": keys.DONOR})
    adata.obs["treated"] = labels["perturbation"] != "control"
    return adata[~labels["cell_type"].str.contains("unresolved").to_numpy()].copy()


def judge(prompt, query, treated, control, **design):
    """Expected accuracy of one question, and its correlation with cells that were held out."""
    is_treated = prompt.obs["treated"].to_numpy()
    arms = prompt[is_treated].copy(), prompt[~is_treated].copy()
    cells = GroundingCells(query, None, query, *arms)
    detection = np.max([np.asarray((part.X > 0).mean(axis=0)).ravel() for part in (query, *arms)], axis=0)
    studied = study_prompt(cells, engine=ENGINE, detection=detection, min_detection=MIN_DETECTION, **design)
    expected = expect_accuracy(studied, query=query, engine=ENGINE, similarity=np.nan)
    if isinstance(studied, str):
        return None
    genes = query.var_names[studied.is_known]
    is_shared = genes.isin(treated.var_names)
    truth = [
        summarise_arm(log_normalise(arm.X)[:, arm.var_names.get_indexer(genes[is_shared])])
        for arm in (treated, control)
    ]
    measured = truth[0].mean - truth[1].mean
    error = sum(float((arm.variance / arm.n_cells).mean()) for arm in truth)
    reliability = max(MIN_RELIABILITY, 1 - error / float(measured.var()))
    r = float(np.corrcoef(studied.own.effect[is_shared], measured)[0, 1])
    return {
        "expected": expected.value,
        "low": expected.low,
        "high": expected.high,
        "n": expected.n_left_out,
        "r": r,
        "reliability": reliability,
    }


def halved(adata, rows, *, seed=5):
    """Query cells and truth controls: two random halves of some control cells."""
    rows = np.random.default_rng(seed).permutation(rows)
    return adata[rows[: len(rows) // 2]].copy(), adata[rows[len(rows) // 2 :]].copy()


def questions(folder):
    """(kind, prompt, query, truth treated, truth control) of every question."""
    kang = read(folder / "kang2018_ifnb_public.h5ad")
    further = read(folder / "kang2018_ifnb_extra9k_public.h5ad")
    types, donors = (kang.obs[name].to_numpy(str) for name in (keys.CELL_TYPE, keys.DONOR))
    treated, names = kang.obs["treated"].to_numpy(), np.unique(donors)
    for kept in [*itertools.combinations(names, 2), *((name,) for name in names)]:
        kind = "Kang, two donors for two others" if len(kept) == 2 else "Kang, one donor for three others"
        inside = np.isin(donors, kept)
        for name in np.unique(types):
            own = types == name
            parts = (own & inside & ~treated, own & ~inside & treated, own & ~inside & ~treated)
            yield (kind, kang[inside & ~own], *(kang[part].copy() for part in parts))
    for name in np.unique(types):
        own, there = types == name, further.obs[keys.CELL_TYPE].to_numpy(str) == name
        arms = [further[there & (further.obs["treated"].to_numpy() == side)].copy() for side in (True, False)]
        yield ("Kang, four donors for cells of another file", kang[~own], kang[own & ~treated].copy(), *arms)
    rng = np.random.default_rng(21)
    for source, n in [
        ("CD14+ monocyte", 285),
        ("B cell", 72),
        ("CD14+ monocyte", 30),
        ("CD14+ monocyte", 10),
        ("B cell", 5),
    ]:
        rows = [rng.permutation(np.flatnonzero((types == source) & (treated == side)))[:n] for side in (True, False)]
        for name in np.unique(types[types != source]):
            query, control = halved(kang, np.flatnonzero((types == name) & ~treated))
            yield (
                f"Kang, {n} {source}s",
                kang[np.concatenate(rows)],
                query,
                kang[(types == name) & treated].copy(),
                control,
            )
    glioma = read(folder / "gbm_panobinostat_300genes_public.h5ad")
    types, donors = (glioma.obs[name].to_numpy(str) for name in (keys.CELL_TYPE, keys.DONOR))
    treated = glioma.obs["treated"].to_numpy()
    for donor, name in itertools.product(np.unique(donors), np.unique(types)):
        own = (donors == donor) & (types == name)
        query, control = halved(glioma, np.flatnonzero(own & ~treated))
        for kind, hidden in (("a patient", donors == donor), ("a type of a patient", own)):
            yield (f"panobinostat, {kind} hidden", glioma[~hidden], query, glioma[own & treated].copy(), control)
    papalexi = read(folder / "papalexi_thp1_299genes_public.h5ad")
    guides, donors = papalexi.obs["perturbation"].to_numpy(str), papalexi.obs[keys.DONOR].to_numpy(str)
    for guide, donor in itertools.product(np.unique(guides[guides != "control"]), np.unique(donors)):
        used, own = np.isin(guides, [guide, "control"]), donors == donor
        query, control = halved(papalexi, np.flatnonzero((guides == "control") & own))
        yield (
            "Papalexi, a replicate hidden",
            papalexi[used & ~own],
            query,
            papalexi[own & (guides == guide)].copy(),
            control,
        )


def healthy(folder, *, most=80, seed=1):
    """Cells of all files that have a known type, as many as ``most`` of each type and donor."""
    parts = []
    for path in sorted(folder.glob("*_counts.h5ad")):
        adata = ad.read_h5ad(path)
        labels = adata.obs[["cell_type"]].astype(str).rename(columns={"cell_type": keys.CELL_TYPE})
        labels[keys.DONOR] = path.stem + (":" + adata.obs["donor_id"].astype(str) if "donor_id" in adata.obs else "")
        parts.append(ad.AnnData(adata.X.tocsr(), obs=labels, var=adata.var[[]]))
    cells = ad.concat(parts, index_unique="-")
    order = pd.Series(np.random.default_rng(seed).permutation(cells.n_obs), index=cells.obs_names)
    rank = order.groupby([cells.obs[keys.CELL_TYPE], cells.obs[keys.DONOR]]).rank()
    cells = cells[((rank <= most) & (cells.obs[keys.CELL_TYPE] != "unknown")).to_numpy()].copy()
    sizes = cells.obs.groupby([keys.CELL_TYPE, keys.DONOR]).size().unstack(fill_value=0)
    return cells, sizes.index[(sizes >= 2 * MIN_TRUTH).sum(axis=1) > 2].to_numpy()


def states(folder, *, n_pairs=4, seed=1):
    """(kind, design, prompt, query, true cells, cells they are compared with) of questions about a state of cells."""
    cells, names = healthy(folder)
    types, donors = (cells.obs[name].to_numpy(str) for name in (keys.CELL_TYPE, keys.DONOR))
    rng = np.random.default_rng(seed)
    for donor in np.unique(donors):
        own = donors == donor
        for name, start in (rng.permutation(names)[:2] for _ in range(n_pairs)):
            prompt = cells[~own & np.isin(types, [name, start])].copy()
            prompt.obs["treated"] = prompt.obs[keys.CELL_TYPE] == name
            query, control = halved(cells, np.flatnonzero(own & (types == start)))
            truth = cells[own & (types == name)].copy()
            yield "a cell type from another of the donor", {"within": keys.DONOR}, prompt, query, truth, control
        for name in names:
            prompt = cells[(types != name) & np.isin(types, names)].copy()
            prompt.obs["treated"] = prompt.obs[keys.DONOR] == donor
            query, control = halved(cells, np.flatnonzero(~own & (types == name)))
            yield "a donor's type", {"shows_donor": True}, prompt, query, cells[own & (types == name)].copy(), control


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of the public perturbation files")
    parser.add_argument("--healthy", type=Path, help="folder of counts of healthy cells by type and donor")
    parser.add_argument("--rows", type=Path, help="CSV file that gets one row per question")
    options = parser.parse_args()
    rows = []
    asked = [(kind, {}, *cells) for kind, *cells in questions(options.folder)]
    asked += states(options.healthy) if options.healthy else []
    for kind, design, prompt, query, treated, control in asked:
        both = prompt.obs["treated"].any() and not prompt.obs["treated"].all()
        if both and query.n_obs >= MIN_TRUTH // 2 and min(treated.n_obs, control.n_obs) >= MIN_TRUTH:
            rows.append(
                {
                    "question": kind,
                    "type": query.obs[keys.CELL_TYPE].iloc[0],
                    **judge(prompt.copy(), query, treated, control, **design),
                }
            )
    table = pd.DataFrame(rows)
    table["error"] = (table["expected"] * np.sqrt(table["reliability"]) - table["r"]).abs()
    clean = (table["r"] / np.sqrt(table["reliability"])).clip(upper=1)
    table["covered"] = (table["low"] <= clean) & (clean <= table["high"])
    if options.rows:
        table.to_csv(options.rows, index=False)
    print("| question | n | nothing expected | expected | r | r without noise | error | covered |")
    print(f"|{'---|' * 8}")
    for kind, some in table.assign(clean=clean).groupby("question", sort=False):
        known = some[some["expected"].notna()]
        means = (
            [f"{known[name].mean():.3f}" for name in ("expected", "r", "clean", "error")] if len(known) else ["-"] * 4
        )
        covered = f"{int(known['covered'].sum())} of {len(known)}"
        print(f"| {kind} | {len(some)} | {len(some) - len(known)} | {' | '.join(means)} | {covered} |")


if __name__ == "__main__":
    main()
