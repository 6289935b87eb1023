"""How often the called genes are right, how wide the intervals are, and what thin prompts and null prompts call.

In: folder with the public Kang, panobinostat and Papalexi subsets. Out: Markdown tables. Run it with the repository on
``PYTHONPATH``, one thread, about two processor minutes.

Splits: every cell type of Kang hidden in turn, prompt from two donors, truth from the other two (all six pairs of
donors); the same with all four donors, truth from other cells of the study in another file; panobinostat, each patient
hidden; Papalexi, two replicates and the third as truth; simulated worlds that nothing was tuned on, truth without
error. ``confirmed``: same sign and Benjamini-Hochberg 5 % in the truth alone, by effect over standard error. Coverage:
truth inside the 80 % interval widened by its own error.
"""

import argparse
import itertools
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control, norm

from haystack_kernel import keys
from haystack_kernel.grounding import GroundingCells
from haystack_kernel.grounding.de.profiles import log_normalise
from haystack_kernel.grounding.uncertainty.calls import call_genes, query_profile, study_prompt
from haystack_kernel.grounding.uncertainty.transfer import INTERVAL, MAX_LFSR
from inference.effects import measure_effect, summarise_arm

DETECTED = 0.02
UNRESOLVED = "T cell (unresolved)"  # would show a hidden T cell type
KANG_TYPES = ("B cell", "CD14+ monocyte", "CD4 T cell", "CD8 T cell", "NK cell", "dendritic cell")
SOURCES = (("CD14+ monocyte", "FCGR3A+ monocyte"), ("B cell", "FCGR3A+ monocyte"), ("CD14+ monocyte", "dendritic cell"))


def read(path):
    """Cells with the kernel's column names."""
    adata = ad.read_h5ad(path)
    adata.X = adata.X.tocsr()
    adata.obs[keys.CELL_TYPE] = adata.obs["cell_type"].astype(str)
    adata.obs[keys.DONOR] = adata.obs["donor_id"].astype(str)
    adata.obs["treated"] = adata.obs["perturbation"].astype(str) != "control"
    return adata


def calls(prompt, query, *, engine="weighted", treated="treated"):
    """DE table of a linear engine, and what was learned of the prompt."""
    is_treated = prompt.obs[treated].to_numpy(bool)
    cells = GroundingCells(query, None, query, prompt[is_treated].copy(), prompt[~is_treated].copy())
    detection = query_profile(query)[1]
    for adata in (cells.prompt, cells.prompt_control):
        detection = np.maximum(detection, np.asarray((adata.X > 0).mean(axis=0)).ravel())
    studied = study_prompt(cells, engine=engine, detection=detection, min_detection=DETECTED)
    if isinstance(studied, str):
        raise SystemExit(studied)
    de = pd.DataFrame({keys.GENE: query.var_names, keys.DELTA: np.nan})
    return call_genes(de, studied=studied, engine=engine, max_lfsr=MAX_LFSR), studied.transfer


def truth_of(adata, genes):
    """Measured effect and standard error per gene, NaN for genes that were not measured."""
    logs, treated = log_normalise(adata.X), adata.obs["treated"].to_numpy(bool)
    effect = measure_effect(summarise_arm(logs[treated]), summarise_arm(logs[~treated]))
    table = pd.DataFrame({"delta": effect.delta, "se": effect.se}, index=adata.var_names)
    return table.reindex(genes)


def judge(de, truth):
    """Counts that can be summed over splits."""
    delta, se = truth["delta"].to_numpy(), truth["se"].to_numpy()
    usable = de[keys.LFSR].notna().to_numpy() & np.isfinite(delta) & (se > 0)
    effect, sd = de[keys.EFFECT].to_numpy(), de[keys.EFFECT_SD].to_numpy()
    padj = np.ones(len(de))
    padj[usable] = false_discovery_control(2 * norm.sf(np.abs(delta[usable] / se[usable])))
    called, same = de[keys.IS_DE].to_numpy() & usable, np.sign(effect) == np.sign(delta)
    up, down, large = called & (effect > 0), called & (effect < 0), usable & (np.abs(effect) > 0.05)
    with np.errstate(invalid="ignore"):
        inside = np.abs(delta - effect) <= INTERVAL * np.sqrt(sd**2 + se**2)
    return {
        "up": up.sum(),
        "up right": (up & same).sum(),
        "confirmed": (up & same & (padj < 0.05)).sum(),
        "down": down.sum(),
        "down right": (down & same).sum(),
        "called": called.sum(),
        "inside, called": (called & inside).sum(),
        "large": large.sum(),
        "inside, large": (large & inside).sum(),
    }


def show(title, rows):
    """One line per label: sums over its splits as shares."""
    columns = "| | calls up | sign | confirmed | down | sign | coverage, called | coverage, over .05 | c | left out |"
    print(f"\n### {title}\n\n{columns}\n|{'---|' * 10}")

    def share(part, whole):
        return f"{part / whole:.2f}" if whole else "-"

    for label, found in rows.items():
        total = {name: sum(one[name] for one, _ in found) for name in found[0][0]}
        n = len(found)
        transfer = [one for _, one in found]
        told = np.array([one.coverage for one in transfer])
        own = f"{np.nanmean(told):.2f}" if np.isfinite(told).any() else "-"
        cells = [
            f"{total['up'] / n:.0f}",
            share(total["up right"], total["up"]),
            share(total["confirmed"], total["up"]),
            f"{total['down'] / n:.0f}",
            share(total["down right"], total["down"]),
            share(total["inside, called"], total["called"]),
            share(total["inside, large"], total["large"]),
            f"{np.mean([one.c2 for one in transfer]) ** 0.5:.2f}",
            f"{transfer[0].left_out or 'nothing'}, {np.mean([one.n_units for one in transfer]):.0f} units, {own}",
        ]
        print(f"| {label} | {' | '.join(cells)} |")


def hide_types(kang, *, engine):
    """Each type hidden, prompt from two donors, truth from the other two."""
    obs, rows = kang.obs, {}
    donors = sorted(obs[keys.DONOR].unique())
    for name, pair in itertools.product(KANG_TYPES, itertools.combinations(donors, 2)):
        inside, of_type = obs[keys.DONOR].isin(pair), obs[keys.CELL_TYPE] == name
        query = kang[inside & of_type & ~obs["treated"]].copy()
        prompt = kang[inside & ~obs[keys.CELL_TYPE].isin([name, UNRESOLVED])].copy()
        if query.n_obs < 5:
            continue
        de, transfer = calls(prompt, query, engine=engine)
        found = judge(de, truth_of(kang[~inside & of_type], kang.var_names)), transfer
        rows.setdefault(name, []).append(found)
    show(f"Kang, two donors, truth from the other two, engine {engine}", rows)


def other_cells(kang, more):
    """Each type hidden, all donors, truth from cells of another file."""
    rows = {}
    for name in KANG_TYPES:
        of_type = kang.obs[keys.CELL_TYPE] == name
        query = kang[of_type & ~kang.obs["treated"]].copy()
        de, transfer = calls(kang[~kang.obs[keys.CELL_TYPE].isin([name, UNRESOLVED])].copy(), query)
        truth = truth_of(more[more.obs[keys.CELL_TYPE] == name], kang.var_names)
        rows[name] = [(judge(de, truth), transfer)]
    show("Kang, four donors, truth from other cells of the study", rows)


def shrink(kang, *, n_draws=5):
    """Calls of prompts of one type, 285 to 5 cells an arm."""
    sizes = (285, 100, 30, 10, 5)
    print(f"\n### Calls as the prompt shrinks, mean of {n_draws} draws (most)\n")
    print(f"| prompt for | {' | '.join(map(str, sizes))} |\n|{'---|' * (len(sizes) + 1)}")
    for source, target in SOURCES:
        query = kang[(kang.obs[keys.CELL_TYPE] == target) & ~kang.obs["treated"]].copy()
        found = {size: [] for size in sizes}
        for seed, size in itertools.product(range(n_draws), sizes):
            rng = np.random.default_rng(100 + seed)
            arms = [
                rng.permutation(np.flatnonzero((kang.obs[keys.CELL_TYPE] == source) & (kang.obs["treated"] == side)))
                for side in (True, False)
            ]
            prompt = kang[np.concatenate([arm[:size] for arm in arms])].copy()
            found[size].append(int(calls(prompt, query)[0][keys.IS_DE].sum()))
        shown = [f"{np.mean(one):.0f} ({max(one)})" for one in found.values()]
        print(f"| {source} for {target} | {' | '.join(shown)} |", flush=True)


def nulls(kang, *, n_draws=12):
    """Calls of control cells split in two."""
    print("\n### Control cells split in two\n\n| cells | splits | calls in all | smallest lfsr |\n|---|---|---|---|")
    control = kang[~kang.obs["treated"]].copy()
    for name in ("CD14+ monocyte", "CD4 T cell", "B cell", "all types but FCGR3A+"):
        if name.startswith("all"):
            chosen = control[~control.obs[keys.CELL_TYPE].isin(["FCGR3A+ monocyte", UNRESOLVED])].copy()
        else:
            chosen = control[control.obs[keys.CELL_TYPE] == name].copy()
        query = control[control.obs[keys.CELL_TYPE] == "FCGR3A+ monocyte"].copy()
        n, least = 0, 1.0
        for seed in range(n_draws):
            chosen.obs["treated"] = np.random.default_rng(200 + seed).random(chosen.n_obs) < 0.5
            de, _ = calls(chosen, query)
            n, least = n + int(de[keys.IS_DE].sum()), min(least, float(de[keys.LFSR].min()))
        print(f"| {name} | {n_draws} | {n} | {least:.2f} |", flush=True)


def hide_donors(adata, title, *, label=keys.CELL_TYPE):
    """Each donor hidden within each cell type (or knock-out), predicted from the same type of the others."""
    rows = {}
    for name, donor in itertools.product(*(sorted(adata.obs[one].unique()) for one in (label, keys.DONOR))):
        of_name = (adata.obs[label] == name) | ((label != keys.CELL_TYPE) & ~adata.obs["treated"])
        own = of_name & (adata.obs[keys.DONOR] == donor)
        arms = [int((own & (adata.obs["treated"] == side)).sum()) for side in (True, False)]
        if min(arms) < 20 or name == "control":
            continue
        de, transfer = calls(adata[of_name & ~own].copy(), adata[own & ~adata.obs["treated"]].copy())
        found = judge(de, truth_of(adata[own], adata.var_names)), transfer
        if found[0]["called"] or label == keys.CELL_TYPE:
            rows.setdefault(f"{name}{'' if label != keys.CELL_TYPE else f', {donor}'}", []).append(found)
    show(title, rows)


def worlds(seeds, *, n=5):
    """Hidden pairs of simulated worlds, by whether the cells respond, and controls split in two."""
    from tools.grounding_quality import (
        as_adata,
        load_knowledge,
        make_prompts,
        make_world,
        pick_questions,
        wrong_treatment,
    )
    from tools.truth import true_log_shift

    rows, knowledge = {}, load_knowledge()
    for seed in seeds:
        world, rng = make_world(seed, knowledge=knowledge), np.random.default_rng(seed)
        for name, cell_type in pick_questions(world, rng=rng, n=n):
            other = wrong_treatment(world, name, knowledge=knowledge, rng=rng)
            query, prompts = make_prompts(world, name, cell_type, other=other, rng=rng)
            shift = true_log_shift(world, cell_type, name)
            truth = pd.DataFrame({"delta": [shift[gene] for gene in world.genes], "se": 1e-9})
            inert = world.programmes[name].role == "inert"
            responds = "responding" if truth["delta"].any() else "not responding, though others do"
            for kind, label in (("right", "inert" if inert else responds), ("controls split", "controls split")):
                arms = [as_adata(cells) for cells in prompts[kind]]
                for arm, side, prefix in zip(arms, (True, False), "tc", strict=True):
                    arm.obs["treated"] = side
                    arm.obs_names = prefix + arm.obs_names
                de, transfer = calls(ad.concat(arms), as_adata(query))
                measured = truth if kind == "right" else truth.assign(delta=0.0)
                rows.setdefault(label, []).append((judge(de, measured), transfer))
    show(f"Simulated worlds {seeds[0]} to {seeds[-1]}", rows)


def main():
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of the perturbation data sets")
    folder = parser.parse_args().folder
    kang = read(folder / "kang2018_ifnb_public.h5ad")
    for engine in ("weighted", "mean", "shift"):
        hide_types(kang, engine=engine)
    other_cells(kang, read(folder / "kang2018_ifnb_extra9k_public.h5ad"))
    shrink(kang)
    nulls(kang)
    hide_donors(read(folder / "gbm_panobinostat_300genes_public.h5ad"), "Panobinostat, each patient hidden")
    papalexi = read(folder / "papalexi_thp1_299genes_public.h5ad")
    worlds(range(6301, 6311))
    hide_donors(papalexi, "Papalexi, two replicates, truth from the third", label="perturbation")


if __name__ == "__main__":
    main()
