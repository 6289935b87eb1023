"""How true a screen is: its findings, its top, its intervals and its proposals against a simulated world.

In: a seed of a world that no tuning has touched. Out: Markdown tables on stdout; ``--rows`` keeps one line a question.
Run it as ``python tests/benchmarks/screen_truth.py``.

147 treatments, three in ten of them inert and most of the others weak, are measured in six types of blood cells; the
screen asks for each in two other types. Inert in the tables below means that the treatment does nothing anywhere;
silent that it does something in other types and nothing in the one asked about, which no test of the prompt can tell.
``--direct`` takes the functions that score a screen without its folders, predictions and knowledge, in a third of the
time. Measuring a proposal means to draw its cells from the world, four donors and fifty cells of each and arm.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import sparse

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from haystack_kernel import keys  # noqa: E402
from haystack_kernel.atlas.demo.sampling import Group, Sample, sample_counts  # noqa: E402
from haystack_kernel.campaign.judge import response_size  # noqa: E402
from haystack_kernel.campaign.next import next_experiments  # noqa: E402
from haystack_kernel.campaign.rank import combined_p, control_false  # noqa: E402
from haystack_kernel.grounding import GroundingCells  # noqa: E402
from haystack_kernel.grounding.confidence.accuracy import expect_accuracy  # noqa: E402
from haystack_kernel.grounding.nulls.response import response_null  # noqa: E402
from haystack_kernel.grounding.uncertainty.calls import SQUARE, SQUARE_ERROR, call_genes, study_prompt  # noqa: E402
from haystack_kernel.grounding.uncertainty.transfer import INTERVAL  # noqa: E402
from haystack_kernel.knowledge import load_knowledge  # noqa: E402
from inference.draw import log_normalise  # noqa: E402
from inference.effects import measure_effect, summarise_arm  # noqa: E402
from tools.screen_world import ASKED, DATASET, draw_screen, make_screen_world, true_effects  # noqa: E402

ENGINE, MIN_DETECTION, SHOWN = "weighted", 0.02, 0.05
LEVELS, TOP, N_PROPOSED = (0.05, 0.1, 0.2), 20, 10
DONORS, CELLS = 4, 50


def ask_directly(cells, world, *, min_detection=MIN_DETECTION):
    """The table and the effects of a screen by the functions that score one."""
    labels = cells.obs.astype(str)
    treatment, kind, donor = (labels[name].to_numpy() for name in ("cytokine", "cell_type", "donor"))
    cells.obs = labels.rename(columns={"cell_type": keys.CELL_TYPE, "donor": keys.DONOR})
    is_control, rows, effects = treatment == "PBS", [], {}
    queries = {name: cells[(kind == name) & is_control].copy() for name in ASKED}
    for programme in world.programmes.values():
        prompt = cells[treatment == programme.label].copy()
        own = np.isin(donor, prompt.obs[keys.DONOR].unique()) & is_control & ~np.isin(kind, list(ASKED))
        control = cells[own].copy()
        shown = np.max([np.asarray((one.X > 0).mean(axis=0)).ravel() for one in (prompt, control)], axis=0)
        for name, query in queries.items():
            detection = np.maximum(shown, np.asarray((query.X > 0).mean(axis=0)).ravel())
            by_role = GroundingCells(query, None, query, prompt, control)
            studied = study_prompt(by_role, engine=ENGINE, detection=detection, min_detection=min_detection)
            de = pd.DataFrame({keys.GENE: cells.var_names, keys.DELTA: 0.0})
            de = call_genes(de, studied=studied, engine=ENGINE, max_lfsr=0.05)
            own = expect_accuracy(studied, query=query, engine=ENGINE, similarity=np.nan)
            size, sd = response_size(de.attrs[SQUARE], de.attrs[SQUARE_ERROR], within=own.value)
            number = len(rows) + 1
            effects[number] = de.set_index(keys.GENE)[[keys.EFFECT, keys.EFFECT_SD]]
            rows.append(
                {
                    "number": number,
                    "perturbation": programme.name,
                    "cell_type": name,
                    "status": "predicted",
                    "evidence": "other_cell_type",
                    "n_tested": int(studied.is_known.sum()),
                    "n_called": int(de[keys.IS_DE].sum()),
                    "size": size,
                    "size_sd": sd,
                    "p_response": response_null(studied.prompt).p,
                    "expected_r": own.value,
                }
            )
    return pd.DataFrame(rows), effects


def ask(cells, world, *, folder, workers):
    """The table and the effects of a screen on an atlas of these cells."""
    from haystack_kernel.atlas import build_atlas, load_mapping
    from haystack_kernel.campaign.screening import screen
    from haystack_kernel.config.settings import load_settings

    root = Path(folder)
    settings = load_settings(storage=str(root / "storage"), atlas_root=str(root / "atlases"), cache=str(root / "cache"))
    if not (root / "atlases" / "screened").exists():
        source = root / f"{DATASET}.h5ad"
        cells.write_h5ad(source)
        from haystack_kernel.atlas.demo.facts import CYTOKINE_LABELS

        names = {label: cl_id for label, (cl_id, _) in CYTOKINE_LABELS.items()}
        mapping = load_mapping("parse_pbmc", condition="simulated", rename={"cell_type": names})
        build_atlas(str(source), name="screened", root=settings.atlas_root, mapping=mapping, knowledge=load_knowledge())
    started = time.perf_counter(), time.process_time()
    done = screen(
        [one.label for one in world.programmes.values()],
        list(ASKED.values()),
        settings=settings,
        workers=workers,
        atlases=["screened"],
        engine=ENGINE,
    )
    wall = time.perf_counter() - started[0]
    sys.stderr.write(f"{done!r}: {wall:.0f} s with {workers} workers, {done.folder}\n")
    made, matrix = done.table.copy(), done.effects
    names = {cl_id: label for label, cl_id in ASKED.items()}
    made["cell_type"] = made["cell_type_id"].map(names)
    effects = {}
    for place, number in enumerate(matrix.obs["number"].astype(int)):
        columns = {keys.EFFECT: matrix.X[place], keys.EFFECT_SD: matrix.layers[keys.EFFECT_SD][place]}
        effects[int(number)] = pd.DataFrame(columns, index=matrix.var_names)
    return made, effects


def with_truth(table, effects, world):
    """The table with what is true of each question, and how many true effects its intervals hold."""
    true = {name: true_effects(world, cl_id) for name, cl_id in ASKED.items()}
    rows = []
    for row in table.to_dict("records"):
        programme = world.programme(row["perturbation"])
        known = effects.get(row["number"])
        values = true[row["cell_type"]].loc[programme.name]
        facts = {"role": programme.role, "is_inert": programme.role == "inert"}
        if known is not None:
            known = known[known[keys.EFFECT].notna()]
            truth, mean, sd = values.reindex(known.index).to_numpy(), *known.to_numpy(float).T
            inside, large = np.abs(truth - mean) <= INTERVAL * sd, np.abs(mean) > SHOWN
            facts |= {
                "true_size": float(np.sqrt(np.mean(truth**2))),
                "inside": int(inside[large].sum()),
                "large": int(large.sum()),
                "r": float(np.corrcoef(mean, truth)[0, 1]) if truth.any() and mean.std() > 0 else np.nan,
            }
        rows.append({**row, **facts})
    found = pd.DataFrame(rows)
    found["is_silent"] = ~found["is_inert"] & (found["true_size"] == 0)
    return found


def show_findings(table, *, test):
    """Findings at each stated rate, and what share of them does nothing."""
    p = combined_p(table, test=test)
    q = control_false(p)
    inert = table["is_inert"].to_numpy(bool)
    shares = ", ".join(f"{np.mean(p[inert & ~np.isnan(p)] <= one):.3f} at {one}" for one in (0.05, 0.1, 0.2))
    print(f"\nTest {test}: {int(np.isfinite(p).sum())} of {len(table)} questions tested; p of inert ones: {shares}\n")
    print("| stated rate | findings | inert | share | silent in the type asked | of the responding pairs found |")
    print("|---|---|---|---|---|---|")
    responds = (table["true_size"] > 0).to_numpy(bool)
    for level in LEVELS:
        found = q <= level
        n, silent = max(int(found.sum()), 1), int((found & table["is_silent"].to_numpy(bool)).sum())
        print(
            f"| {level} | {int(found.sum())} | {int((found & inert).sum())} | {(found & inert).sum() / n:.3f} "
            f"| {silent} | {(found & responds).sum() / responds.sum():.2f} |"
        )


def show_top(table):
    """The top by size in each type: how many of it are in the true top, inert, silent."""
    print(f"\n| cell type | rank correlation with the true size | of the top {TOP} in the true one | inert | silent |")
    print("|---|---|---|---|---|")
    for name, some in table.groupby("cell_type"):
        top, true = some.nlargest(TOP, "size"), set(some.nlargest(TOP, "true_size")["number"])
        r = some["size"].corr(some["true_size"], "spearman")
        n = int(top["number"].isin(true).sum())
        print(
            f"| {name} | {r:.3f} | {n} ({TOP**2 / len(some):.1f} by chance) | {top['is_inert'].sum()} "
            f"| {top['is_silent'].sum()} |"
        )


def show_intervals(table):
    """Share of true values inside 80 % intervals."""
    half = INTERVAL * table["size_sd"]
    inside = (table["true_size"] - table["size"]).abs() <= half
    groups = {
        "inert": table["is_inert"],
        "silent in the type asked": table["is_silent"],
        "responding": table["true_size"] > 0,
        "responding, an accuracy is expected": (table["true_size"] > 0) & table["expected_r"].notna(),
        "responding, found at 0.1": (table["true_size"] > 0) & (control_false(combined_p(table)) <= 0.1),
    }
    print(
        "\n| questions | n | size inside its 80 % interval | true / expected size, median | effects beyond .05 inside |"
    )
    print("|---|---|---|---|---|")
    for name, some in groups.items():
        rows = table[some]
        ratio = (rows["true_size"] / rows["size"]).replace(np.inf, np.nan).median()
        share = rows["inside"].sum() / max(rows["large"].sum(), 1)
        print(
            f"| {name} | {len(rows)} | {inside[some].mean():.2f} | {ratio:.2f} | {share:.2f} of {rows['large'].sum()} |"
        )


def measure(world, perturbation, cell_type, *, number):
    """Measure a pair: size and its error from cells drawn of it."""
    name, group = world.programme(perturbation).name, (Group(ASKED[cell_type], CELLS),)
    arms = []
    for treatment in (name, None):
        parts = [sample_counts(world, Sample(f"measured {number}", f"m{i}", treatment, group)) for i in range(DONORS)]
        arms.append(parts)
    pooled = [summarise_arm(log_normalise(sparse.vstack(parts, format="csr"))) for parts in arms]
    effect = measure_effect(*pooled)
    kept = np.maximum(pooled[0].mean, pooled[1].mean) > MIN_DETECTION
    square = float((effect.delta**2 - effect.se**2)[kept].mean())
    return np.sqrt(max(square, 0.0))


def show_proposals(table, world, *, seed):
    """Measure what is proposed, and as many others, and compare the top that each leaves."""
    found = next_experiments(table, top=TOP, n_donors=DONORS, n_cells=CELLS)
    rows = found.table.set_index("number")
    rng = np.random.default_rng(seed)
    by_number = table.set_index("number")
    ways = {
        "proposed": list(found.table["number"][:N_PROPOSED]),
        "first of the list": list(found.table.sort_values("place")["number"][:N_PROPOSED]),
        "widest interval": list(found.table.sort_values("sd", ascending=False)["number"][:N_PROPOSED]),
    }
    ways |= {f"at random {i}": list(rng.permutation(rows.index)[:N_PROPOSED]) for i in range(1, 6)}
    true_top = set(by_number["true_size"].nlargest(TOP).index)
    print(
        f"\nBefore: {len(true_top & set(by_number['size'].nlargest(TOP).index))} of the true top {TOP} (both types)\n"
    )
    print(f"| {N_PROPOSED} measured | said gain | gain of the top's true sizes | of the true top {TOP} | its sd |")
    print("|---|---|---|---|---|")
    before = by_number.loc[by_number["size"].nlargest(TOP).index, "true_size"].sum()
    for way, numbers in ways.items():
        now, sd = by_number["size"].copy(), rows["sd"].copy()
        for number in numbers:
            row = rows.loc[number]
            noise = 1 / (1 / row["sd_after"] ** 2 - 1 / row["sd"] ** 2)
            seen = measure(
                world, by_number.loc[number, "perturbation"], by_number.loc[number, "cell_type"], number=number
            )
            now[number] = row["sd_after"] ** 2 * (row["value"] / row["sd"] ** 2 + seen / noise)
            sd[number] = row["sd_after"]
        top = now.nlargest(TOP).index
        gain = by_number.loc[top, "true_size"].sum() - before
        said = rows.loc[numbers, "gain"].sum()
        print(f"| {way} | {said:.3f} | {gain:+.3f} | {len(true_top & set(top))} | {sd[top].mean():.4f} |")


def main():
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1003, help="seed of the world; those from 1000 are for reporting")
    parser.add_argument("--treatments", type=int, default=147, help="number of treatments")
    parser.add_argument("--workers", type=int, default=2, help="processes of the screen")
    parser.add_argument("--direct", action="store_true", help="score without folders, predictions and knowledge")
    parser.add_argument("--folder", type=Path, help="folder of atlas and screen (default: a temporary one)")
    parser.add_argument("--rows", type=Path, help="CSV file that gets one row a question")
    options = parser.parse_args()
    world = make_screen_world(options.seed, knowledge=load_knowledge(), n=options.treatments)
    cells = draw_screen(world)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        made = (
            ask_directly(cells, world) if options.direct else ask(cells, world, folder=folder, workers=options.workers)
        )
        table = with_truth(*made, world)
    if options.rows:
        table.to_csv(options.rows, index=False)
    roles = ", ".join(f"{n} {role}" for role, n in table["role"].value_counts().items())
    print(f"World {options.seed}: {len(table)} questions ({roles}), {int(table['is_silent'].sum())} silent")
    show_findings(table, test="response")
    if "p_signal" in table:
        show_findings(table, test="expected")
    show_top(table)
    show_intervals(table)
    show_proposals(table, world, seed=options.seed)


if __name__ == "__main__":
    main()
