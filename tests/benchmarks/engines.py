"""What ``auto`` and blends of two engines are worth: chosen on other treatments, counted on the one left out.

In: folders of finished back-tests (``backtest.py FILE.h5ad --folder FOLDER``), ``packaged`` for the pairs that come
with the demo atlas, and ``--worlds`` for seeds of simulated worlds, which are made and back-tested.
Out: Markdown tables. Where an atlas has one treatment, the pairs of a group of donors or of a cell type are left out.

``regret`` is the mean r of the fixed engine that is best in hindsight minus that of ``auto``, with a 95 % interval from
Student's t over what is left out; ``oracle`` takes the best engine of each pair. ``--blends`` adds, for each engine
beside ``weighted``, the gain on atanh(r) of a convex mix of both effects, its weight learned on the other treatments;
it reads the predicted cells, so packaged pairs have none. ``--few N`` learns the choice from N random other pairs only.
"""

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from scipy.stats import t

from haystack_kernel import keys
from haystack_kernel.atlas import build_atlas, load_mapping
from haystack_kernel.atlas.build import BuildOptions
from haystack_kernel.atlas.calibrations import PACKAGED
from haystack_kernel.atlas.demo import SCHEMA_OF
from haystack_kernel.atlas.demo.simulate import labels_of, simulate
from haystack_kernel.atlas.demo.world import make_world
from haystack_kernel.backtest.calibrate import MOST_R, CalibrationPairs, calibrate
from haystack_kernel.backtest.judge import CONTROL_SUFFIX, DECOY, MIN_DETECTION, REPLICATE
from haystack_kernel.backtest.table import TEXTS, calibration_pairs
from haystack_kernel.backtest.work import run_backtest
from haystack_kernel.config.settings import load_settings
from haystack_kernel.grounding.confidence.backtested import FEATURES
from haystack_kernel.knowledge import load_knowledge
from haystack_kernel.progress import stream_progress
from haystack_kernel.rounds.engine import compare, decide
from haystack_kernel.schema import BacktestPlan, Calibration
from haystack_kernel.store import layout, parse_csv
from inference.draw import log_normalise
from inference.manifest import MODEL_ENGINE

AT = datetime(2026, 1, 1, tzinfo=UTC)
WEIGHTS = np.linspace(0, 1, 11)
INDEX = ["evidence", "group", "perturbation", "part", "number"]


def atanh(r):
    return np.arctanh(np.clip(r, -MOST_R, MOST_R))


def test_world(seed, *, folder, engines, n_pairs):
    """Back-test the demo's data sets of another world; returns the campaign's folder."""
    root, name, knowledge = Path(folder).absolute() / str(seed), f"world{seed}", load_knowledge()
    settings = load_settings(storage=str(root), atlas_root=str(root / "atlases"), cache=str(root / "cache"))
    if not (root / "made").exists():
        root.mkdir(parents=True, exist_ok=True)
        for dataset, adata in simulate(make_world(seed, knowledge=knowledge)).items():
            adata.write_h5ad(path := root / f"{dataset}.h5ad", compression="gzip")
            mapping = load_mapping(SCHEMA_OF[dataset], condition="simulated", rename={"cell_type": labels_of(dataset)})
            options = BuildOptions(dataset=dataset, add=True)
            build_atlas(
                str(path), name=name, root=root / "atlases", mapping=mapping, knowledge=knowledge, options=options
            )
        (root / "made").touch()
    model = {"model": "demo"} if MODEL_ENGINE in engines else {}
    tested = run_backtest(
        name, n_pairs=n_pairs, engines=engines, settings=settings, progress=stream_progress(sys.stderr), **model
    )
    return Path(tested.folder)


def read_pairs(source):
    """Engine -> its calibration pairs."""
    if source == "packaged":
        found = [Calibration.model_validate_json(path.read_text()) for path in PACKAGED.glob("calibrations/*.json")]
        return {one.engine: one.pairs for one in found}
    table = parse_csv((source / layout.RESULTS).read_bytes(), texts=TEXTS)
    names = [name for name in table["engine"].unique() if name not in ("", "none", "type-mean", DECOY, REPLICATE)]
    return {name: calibration_pairs(table, name) for name in names}


def as_table(pairs):
    """r of every pair (rows) by every engine (columns), pairs that all predicted."""
    columns = {}
    for engine, own in pairs.items():
        rows = pd.DataFrame([(one.evidence, one.perturbation, one.part, one.r) for one in own])
        rows.columns = ["evidence", "perturbation", "part", "r"]
        rows["group"] = rows["perturbation" if rows["perturbation"].nunique() > 1 else "part"]
        rows["number"] = rows.groupby(["evidence", "perturbation", "part"]).cumcount()
        columns[engine] = rows.set_index(INDEX)["r"]
    return pd.DataFrame(columns).dropna()


def calibrations_of(pairs, *, kept):
    """Engine -> what a back-test of some of the pairs would say of it."""
    return {
        engine: calibrate(
            CalibrationPairs.of([one for one in own if kept(one)], names=FEATURES),
            atlas="tested",
            digest="",
            engine=engine,
            backtest="b",
            made_at=AT,
        )
        for engine, own in pairs.items()
    }


def held_out(pairs, table, *, defaults, few=0, seed=0):
    """Every pair by default, with what the rule takes that has not seen the pair's group, and r of each engine."""
    rng = np.random.default_rng(seed)
    group_of = "perturbation" if table.index.get_level_values("perturbation").nunique() > 1 else "part"
    rows = []
    for group, of_group in table.groupby(level="group"):
        made = calibrations_of(pairs, kept=lambda one, group=group: getattr(one, group_of) != group)
        for evidence, own in of_group.groupby(level="evidence"):
            if few:
                names = [(one.evidence, one.perturbation, one.part) for one in pairs[defaults[0]]]
                same = sorted({one for one in names if one[0] == evidence and group not in one})
                some = {same[place] for place in rng.permutation(len(same))[:few]}
                made = calibrations_of(
                    pairs, kept=lambda one, some=some: (one.evidence, one.perturbation, one.part) in some
                )
            for default in defaults:
                figures = compare(made, default=default, evidence=evidence)
                taken = decide(figures, default=default, atlas="tested", evidence=evidence).engine
                head = {"for": default, "evidence": evidence, "group": group, "taken": taken}
                rows += [{**head, **row, "auto": row[taken]} for row in own.to_dict("records")]
    return pd.DataFrame(rows)


def regret(found, best):
    """Mean of best minus auto over pairs, with the half width of its 95 % interval over groups."""
    lost = found[best] - found["auto"]
    off = (lost - lost.mean()).groupby(found["group"]).sum()
    n = len(off)
    half = t.ppf(0.975, n - 1) * np.sqrt(n / (n - 1) * (off**2).sum()) / len(lost) if n > 1 else np.nan
    return lost.mean(), half


def show_auto(name, source, *, few):
    """Rows of the table: one for each evidence distance and default."""
    pairs = read_pairs(source)
    table = as_table(pairs)
    engines = list(table)
    found = held_out(pairs, table, defaults=[one for one in ("weighted", MODEL_ENGINE) if one in table], few=few)
    for (default, evidence), own in found.groupby(["for", "evidence"], sort=False):
        best = own[engines].mean().idxmax()
        lost, half = regret(own, best)
        taken = ", ".join(f"{engine} {n}" for engine, n in own["taken"].value_counts().items())
        r = [own[default].mean(), own["auto"].mean(), own[engines].max(axis=1).mean()]
        print(
            f"| {name} | {evidence} | {default} | {len(own)} | {r[0]:.3f} | {r[1]:.3f} | {best} {own[best].mean():.3f} "
            f"| {r[2]:.3f} | {lost:.3f} ± {half:.3f} | {taken} |",
            flush=True,
        )


def read_effects(folder):
    """(evidence, group, effects by engine, measured effect) of every pair that was compared."""
    plan = BacktestPlan.model_validate_json((folder / layout.PLAN).read_text())
    table = parse_csv((folder / layout.RESULTS).read_bytes(), texts=TEXTS)
    has_many = table["perturbation"].nunique() > 1
    for number, rows in table[table["reason"] == ""].groupby("pair"):
        place, first, pair = folder / layout.pair_folder(number), rows.iloc[0], plan.pairs[number - 1]
        arms = {
            role: ad.read_h5ad(layout.cells_file(str(place), role)) for role in (layout.TRUTH, layout.TRUTH_CONTROL)
        }
        query = ad.read_h5ad(layout.cells_file(str(place), keys.QUERY))
        counts = [*(arm[:, query.var_names].X.tocsr() for arm in arms.values()), query.X.tocsr()]
        tested = np.max([np.asarray((one > 0).mean(axis=0)).ravel() for one in counts], axis=0) >= MIN_DETECTION
        means = [np.asarray(log_normalise(one).mean(axis=0)).ravel() for one in counts]
        effects = {}
        for engine in plan.engines:
            outputs = [layout.output_file(str(place), f"{engine}{end}") for end in ("", CONTROL_SUFFIX)]
            logs = [
                ad.read_h5ad(path).var[keys.EXPECTED_LOG].to_numpy(float) for path in outputs if Path(path).exists()
            ]
            if logs:
                effects[engine] = (logs[0] - (logs[1] if len(logs) > 1 else means[2]))[tested]
        group = pair.perturbation if has_many else ", ".join(pair.donors) or pair.cell_type
        yield first["evidence"], group, effects, (means[0] - means[1])[tested]


def show_blends(name, folder):
    """Rows of the table: the held-out gain of ``weighted`` mixed with each other engine."""
    found = list(read_effects(folder))
    for evidence in dict.fromkeys(one[0] for one in found):
        own = [one for one in found if one[0] == evidence and "weighted" in one[2]]
        for other in sorted({engine for one in own for engine in one[2]} - {"weighted", "none"}):
            some = [one for one in own if other in one[2]]
            groups = np.array([one[1] for one in some])
            if len(set(groups)) < 3:
                continue
            z = np.array(
                [
                    [atanh(np.corrcoef((1 - w) * each["weighted"] + w * each[other], truth)[0, 1]) for w in WEIGHTS]
                    for _, _, each, truth in some
                ]
            )
            gains, weights = np.zeros(len(some)), []
            for group in np.unique(groups):
                best = z[groups != group].mean(axis=0).argmax()
                weights.append(WEIGHTS[best])
                gains[groups == group] = (z[:, best] - z[:, 0])[groups == group]
            off = pd.Series(gains - gains.mean()).groupby(groups).sum()
            error = np.sqrt(len(off) / (len(off) - 1) * (off**2).sum()) / len(gains)
            print(
                f"| {name} | {evidence} | {other} | {len(some)} | {np.mean(weights):.2f} | {gains.mean():.4f} "
                f"| {error:.4f} |",
                flush=True,
            )


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="*", help="folders of back-tests, or packaged")
    parser.add_argument("--worlds", nargs="*", type=int, default=[], help="seeds of simulated worlds")
    parser.add_argument("--pairs", type=int, default=96, help="of each world")
    parser.add_argument("--engines", nargs="+", default=["mean", "shift", "weighted", "additive"], help="of worlds")
    parser.add_argument("--folder", default="worlds", help="where worlds are kept")
    parser.add_argument("--blends", action="store_true")
    parser.add_argument("--few", type=int, default=0)
    given = parser.parse_args()
    sources = {}
    for one in given.sources:
        name = "demo" if one == "packaged" else Path(one).name
        sources[name] = one if one == "packaged" else next(Path(one).glob(f"campaigns/*/{layout.RESULTS}")).parent
    for seed in given.worlds:
        sources[f"world {seed}"] = test_world(seed, folder=given.folder, engines=given.engines, n_pairs=given.pairs)
    print("| atlas | predicted from | default | pairs | default's r | auto | best fixed | oracle | regret | taken |")
    print("|---" * 10 + "|")
    for name, source in sources.items():
        show_auto(name, source, few=given.few)
    if given.blends:
        print("\n| atlas | predicted from | weighted with | pairs | weight | gain | standard error |")
        print("|---" * 7 + "|")
        for name, source in sources.items():
            if source != "packaged":
                show_blends(name, source)


if __name__ == "__main__":
    main()
