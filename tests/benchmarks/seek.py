"""Reverse questions with a known answer: the state of a treatment, searched where its cells were not seen.

In: files of public data (Papalexi, Kang), or nothing for simulated worlds. Out: Markdown tables: the place of the true
answer among all treatments, beside that by plain correlation, and what was found at a false discovery rate of 10 %.
"""

import argparse
import tempfile
import time
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from scipy.stats import rankdata

from haystack_kernel.atlas import build_atlas, load_mapping, open_atlases
from haystack_kernel.atlas.demo import SEEDS_REPORTING, ensure_demo
from haystack_kernel.atlas.demo.facts import CELL_TYPES
from haystack_kernel.atlas.demo.programmes import TWINS
from haystack_kernel.atlas.demo.world import make_world
from haystack_kernel.campaign.measured import measure_effects
from haystack_kernel.campaign.rank import control_false
from haystack_kernel.campaign.states import read_state
from haystack_kernel.campaign.toward import TargetState, compute_toward
from haystack_kernel.knowledge import load_knowledge
from haystack_kernel.retrieval import build_view
from haystack_kernel.schema import RetrievalSettings, RunConfig
from inference.effects import measure_effect, summarise_arm
from tools.truth import true_log_shift

LEVEL = 0.1
TYPES = ("CL:0000860", "CL:0000895", "CL:0000623", "CL:0000788")  # of the simulated data set of cytokines
DATA_SET = "demo_cytokine_pbmc"


def markdown(table):
    """A table as Markdown, numbers with two decimals."""
    lines = [f"| {' | '.join(table.columns)} |", f"|{'---|' * len(table.columns)}"]
    for row in table.itertuples(index=False):
        cells = [f"{one:.2f}" if isinstance(one, float) else str(one) for one in row]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def view_of(atlas):
    """Everything that the atlas holds."""
    return build_view(atlas, knowledge=load_knowledge(), settings=RetrievalSettings(), config=RunConfig())


def atlas_of(cells, folder, name, kind):
    """An atlas of these cells."""
    path = folder / f"{name}.h5ad"
    cells.write_h5ad(path)
    mapping = load_mapping("cellxgene", perturbation_column="perturbation", control=["control"], perturbation_type=kind)
    build_atlas(str(path), name=name, root=folder / "atlases", mapping=mapping, knowledge=load_knowledge())
    return open_atlases([name], root=folder / "atlases")


def by_correlation(effects, plain):
    """Place of each row by plain correlation of the differences, as measured."""
    genes = [gene for gene in plain.index if gene in set(effects.var_names)]
    raw = np.nan_to_num(np.asarray(effects[:, genes].layers["delta"], dtype=float))
    wanted = plain[genes].to_numpy(float)
    return rankdata([-np.corrcoef(row, wanted)[0, 1] if row.any() else 1.0 for row in raw])


def difference(treated, control):
    """Plain difference of the means of log1p(CP10k), as a baseline takes it."""
    from haystack_kernel.grounding.de.profiles import log_normalise

    arms = [summarise_arm(log_normalise(one.X)) for one in (treated, control)]
    return pd.Series(measure_effect(*arms).delta, treated.var_names)


def search(state, plain, effects, true, twins, seed=0):
    """One search: place of the true answer, its score, and the rows found."""
    scored = compute_toward(effects, state, n_draws=4999, seed=seed)
    found = control_false(scored["p_toward"].to_numpy(float)) <= LEVEL
    found &= (scored["toward_low"] > 0).to_numpy()  # as the words of an answer name them
    names = effects.obs["perturbation"].astype(str).to_numpy()
    others = ~np.isin(names, [true, *twins])
    mine = names == true
    by_r = by_correlation(effects, plain)
    here = int(np.flatnonzero(mine)[0])
    keep = mine | ~np.isin(names, list(twins))
    return {
        "place": float(rankdata(-scored["toward"].fillna(-1.0)[keep])[mine[keep]][0]),
        "by correlation": float(rankdata(by_r[keep])[mine[keep]][0]),
        "toward": float(scored["toward"].iloc[here]),
        "low": float(scored["toward_low"].iloc[here]),
        "high": float(scored["toward_high"].iloc[here]),
        "p": float(scored["p_toward"].iloc[here]),
        "found": bool(found[here]),
        "others found": int((found & others).sum()),
        "searched": int(keep.sum()),
    }


def summarise(rows, by):
    """Shares and means over searches."""
    table = pd.DataFrame(rows)
    grouped = table.groupby(by, sort=False) if by else [("all", table)]
    lines = []
    for name, one in grouped:
        lines.append(
            {
                "of": name if isinstance(name, str) else " ".join(map(str, name)),
                "searches": len(one),
                "answers": float(one["searched"].mean()),
                "first": float((one["place"] < 1.5).mean()),
                "first by r": float((one["by correlation"] < 1.5).mean()),
                "mean place": float(one["place"].mean()),
                "by r": float(one["by correlation"].mean()),
                "found": float(one["found"].mean()),
                "others found": float(one["others found"].mean()),
            }
        )
    return pd.DataFrame(lines)


def papalexi(path, folder):
    """The knock-outs of one replicate as states, searched among those that the other replicates measured."""
    cells = ad.read_h5ad(path)
    rows = []
    strong = {}
    for replicate in sorted(cells.obs["donor_id"].astype(str).unique()):
        here = (cells.obs["donor_id"].astype(str) == replicate).to_numpy()
        name = f"without-{replicate.replace('_', '-')}"
        atlas = atlas_of(cells[~here].copy(), folder, name, "genetic")
        effects = measure_effects(atlas, view=view_of(atlas))
        control = cells[here & (cells.obs["perturbation"] == "control").to_numpy()].copy()
        for gene in sorted(set(cells.obs["perturbation"].astype(str)) - {"control"}):
            treated = cells[here & (cells.obs["perturbation"] == gene).to_numpy()].copy()
            true = f"{gene} knock-out"
            if treated.n_obs < 20 or true not in set(effects.obs["perturbation"].astype(str)):
                continue
            state = read_state(treated, against=control, knowledge=load_knowledge())
            size = float(np.linalg.norm(state.direction))
            if size < 1e-6:
                strong[gene] = strong.get(gene, 0)
                rows.append(None)
                continue
            twins = {"IFNGR1": ("JAK2 knock-out",), "JAK2": ("IFNGR1 knock-out",)}.get(gene, ())
            found = search(state, difference(treated, control), effects, true, twins)
            rows.append({"knock-out": gene, "replicate": replicate, "size": size, **found})
    known = [row for row in rows if row]
    print(f"## Papalexi: {len(rows)} states, {len(rows) - len(known)} of them shrunk to nothing (no state to seek)\n")
    shown = pd.DataFrame(known)
    print(markdown(shown.drop(columns=["low", "high"])))
    known = [{**row, "group": "states of length 1 and more" if row["size"] >= 1 else "shorter"} for row in known]
    print("\n" + markdown(summarise(known, "group")))


def kang(path, folder):
    """IFN-beta in one cell type and half of the donors as state, searched in another type and the other donors.

    Kang holds one treatment: the others that are searched are control cells of the same donors and type that were
    called treated at random, 20 of them.
    """
    rng = np.random.default_rng(0)
    cells = ad.read_h5ad(path)
    donors = sorted(cells.obs["donor_id"].astype(str).unique())
    is_control = (cells.obs["perturbation"] == "control").to_numpy()
    rows = []
    for held in (donors[:2], donors[2:]):
        here = cells.obs["donor_id"].astype(str).isin(held).to_numpy()
        base = cells[~here]
        counts = base.obs.groupby(["cell_type", "perturbation"], observed=True).size().unstack(fill_value=0)
        for number, target in enumerate(counts.index[(counts.min(axis=1) >= 20)]):
            own = base[(base.obs["cell_type"] == target).to_numpy()].copy()
            free = np.flatnonzero((own.obs["perturbation"] == "control").to_numpy())
            parts = [own]
            for fake in range(20):
                half = own[np.sort(rng.choice(free, len(free) // 2, replace=False))].copy()
                half.obs["perturbation"] = f"nothing {fake + 1}"
                half.obs_names = [f"{one}-{fake}" for one in half.obs_names]
                parts.append(half)
            name = f"kang-{number}-{donors.index(held[0])}"
            atlas = atlas_of(ad.concat(parts, merge="same"), folder, name, "cytokine")
            effects = measure_effects(atlas, view=view_of(atlas))
            for source in sorted(set(cells.obs["cell_type"].astype(str)) - {target}):
                of_type = here & (cells.obs["cell_type"] == source).to_numpy()
                treated, control = cells[of_type & ~is_control].copy(), cells[of_type & is_control].copy()
                if min(treated.n_obs, control.n_obs) < 10:
                    continue
                state = read_state(treated, against=control, knowledge=load_knowledge())
                if not state.direction.any():
                    continue
                found = search(state, difference(treated, control), effects, "IFN-beta", ())
                rows.append({"state": source, "cells": target, **found})
    print("## Kang: IFN-beta of another type and other donors\n")
    print(markdown(summarise(rows, "cells")))
    print("\n" + markdown(summarise(rows, None)))


def worlds(n, folder):
    """States of one cell type of simulated worlds, searched in another; the truth of every treatment is known."""
    rows, inert, inside = [], [], []
    for seed in list(SEEDS_REPORTING)[:n]:
        root = folder / str(seed)
        ensure_demo(root, seed=seed)
        world = make_world(seed, knowledge=load_knowledge())
        atlas = open_atlases(["demo"], root=root)
        effects = measure_effects(atlas, view=view_of(atlas), cell_types=TYPES)
        effects = effects[(effects.obs["dataset"] == DATA_SET).to_numpy()].copy()
        lines = {fact.id: row for row, fact in enumerate(CELL_TYPES)}
        for source, target in zip(TYPES, (*TYPES[1:], TYPES[0]), strict=True):
            mine = effects[(effects.obs["cell_type_id"] == source).to_numpy()]
            there = effects[(effects.obs["cell_type_id"] == target).to_numpy()].copy()
            names = there.obs["perturbation"].astype(str).to_numpy()
            acts = np.array([world.programmes[one].effects[lines[target]].any() for one in names])
            truth = np.array([pd.Series(true_log_shift(world, target, one))[there.var_names] for one in names])
            for place, true in enumerate(mine.obs["perturbation"].astype(str)):
                works = world.programmes[true].effects[[lines[source], lines[target]]].any(axis=1).all()
                values = np.nan_to_num(mine.X[place])
                if not works or not np.linalg.norm(values) > 1e-6:
                    continue
                index = mine.var_names
                variance = pd.Series(np.nan_to_num(mine.layers["effect_sd"][place]) ** 2, index)
                state = TargetState(true, pd.Series(values, index), variance)
                twins = [one for pair in TWINS.items() for one in pair if true in pair and one != true]
                found = search(
                    state, pd.Series(np.nan_to_num(mine.layers["delta"][place]), index), there, true, twins, seed=seed
                )
                rows.append({"world": seed, **found})
                scored = compute_toward(there, state, n_draws=999, seed=seed)
                others = ~np.isin(names, [true, *twins])
                inert.append(scored["p_toward"].to_numpy(float)[~acts & others])
                goal = pd.Series(true_log_shift(world, source, true))[there.var_names].to_numpy()
                size = np.linalg.norm(truth, axis=1) * np.linalg.norm(goal)
                real = truth @ goal / np.maximum(size, 1e-9)
                shown = acts & (scored["toward"].abs() > 0.05).to_numpy()
                inside.append(((scored["toward_low"] <= real) & (real <= scored["toward_high"])).to_numpy()[shown])
    print("## Simulated worlds: a treatment of one cell type sought in another\n")
    print(markdown(summarise(rows, "world")))
    print("\n" + markdown(summarise(rows, None)))
    p = np.concatenate(inert)
    shares = ", ".join(f"{(p <= one).mean():.3f} at {one}" for one in (0.05, 0.01))
    print(f"\nInert treatments with a p value of at most: {shares} ({len(p)} tests)")
    held = np.concatenate(inside)
    print(f"True alignment inside the 80 % interval: {held.mean():.2f} of {len(held)}, |toward| above 0.05")


def main():
    """Search and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--papalexi", help="papalexi_thp1_299genes_public.h5ad")
    parser.add_argument("--kang", help="kang2018_ifnb_public.h5ad")
    parser.add_argument("--worlds", type=int, default=0, help="number of simulated worlds")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        began = time.process_time()
        if options.papalexi:
            papalexi(options.papalexi, folder)
        if options.kang:
            kang(options.kang, folder)
        if options.worlds:
            worlds(options.worlds, folder)
        print(f"\n{time.process_time() - began:.0f} s of processors")


if __name__ == "__main__":
    main()
