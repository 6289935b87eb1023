"""What the score is worth: right prompts against decoys, and against the truth, on simulated worlds.

In: number of questions, engine. Out: Markdown tables on stdout, one JSON line per prediction in a file, and with
``--nulls`` the packaged table of null composites. Run it as ``python -m tools.grounding_quality``.

Every question hides one (cell type, treatment) pair and is worked five times with the same query cells: the right
prompt (the treatment in other cell types); the same with knowledge tables whose treatments are shuffled; and three
decoys: another treatment, labels swapped (controls as treated), and a null (the controls split in two). Accuracy is the
Pearson correlation of the predicted with the world's true change of mean log1p(CP10k), which nothing here has seen.
Literature is not asked. The default worlds are those that no tuning has touched.
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse
from scipy.stats import rankdata, spearmanr

from haystack_kernel import keys
from haystack_kernel.atlas.demo.facts import CELL_TYPES
from haystack_kernel.atlas.demo.world import make_world
from haystack_kernel.config.settings import load_settings
from haystack_kernel.grounding import GroundingCells, GroundingContext, score_prediction
from haystack_kernel.grounding.confidence.aspects import NULLS
from haystack_kernel.grounding.signatures.sets import overlap_coefficient
from haystack_kernel.knowledge import load_knowledge
from haystack_kernel.planners.offline import OfflinePlanner
from inference.baselines import Cells, predict
from inference.manifest import DEMO_MODEL, DEMO_STEPS
from inference.models import packaged
from tools.simulated import PROMPT_TYPES, draw, mean_log
from tools.truth import true_log_shift

WORLDS = range(1040, 1050)
N_DONORS, N_PER_DONOR, N_QUERY = 4, 10, 128
KINDS = ("right", "shuffled tables", "wrong treatment", "labels swapped", "controls split")
DECOYS = KINDS[2:]


def load_stack():
    """The packaged model, with means over the counts that could be drawn beside the counts."""
    from inference.stack.config import GenerationSettings
    from inference.stack.engine import Source, load_engine

    sources = [Source(path, path.name, "") for path in packaged(DEMO_MODEL)]
    return load_engine(*sources, settings=GenerationSettings(diffusion_steps=DEMO_STEPS), device="cpu", threads=None)


def as_adata(cells, prediction=None):
    """Cells of the benchmark as the AnnData that grounding takes."""
    obs = pd.DataFrame({keys.CELL_TYPE: cells.cell_type, keys.DONOR: cells.donor})
    obs.index = [f"c{i}" for i in range(len(obs))]
    var = pd.DataFrame(index=list(cells.genes))
    counts = cells.counts if prediction is None else prediction.counts
    adata = ad.AnnData(sparse.csr_matrix(counts, dtype=np.float32), obs=obs, var=var)
    if prediction is not None:
        adata.var[keys.EXPECTED_LOG] = prediction.expected_log
        adata.var[keys.PADDED] = ~prediction.changeable
    return adata


def halve(cells, *, rng):
    """Two random halves of every donor and type."""
    strata = pd.Series(cells.cell_type).str.cat(pd.Series(cells.donor), sep="|")
    first = np.zeros(len(strata), dtype=bool)
    for rows in strata.groupby(strata).indices.values():
        first[rng.permutation(rows)[: len(rows) // 2]] = True
    return take(cells, first), take(cells, ~first)


def take(cells, mask):
    """Some of the cells."""
    return Cells(cells.counts[mask], cells.genes, cells.cell_type[mask], cells.donor[mask])


def shuffle_tables(knowledge, *, rng):
    """The same tables, what is known of each treatment given to another of its kind that expects other genes."""
    entries = knowledge.perturbations
    moved = {}
    for kind in ("cytokine", "drug", "genetic"):
        names = [name for name, entry in entries.items() if entry.type == kind]
        order = list(names)
        for _ in range(200):
            order = [str(name) for name in rng.permutation(names)]
            same = [
                overlap_coefficient(entries[a].response, entries[b].response) > 0.2
                for a, b in zip(names, order, strict=True)
            ]
            if sum(same) <= len(names) // 20:
                break
        for name, other in zip(names, order, strict=True):
            given = entries[other]
            moved[name] = dataclasses.replace(
                entries[name], response=given.response, pathways=given.pathways, targets=given.targets
            )
    return dataclasses.replace(knowledge, perturbations=moved)


def pick_questions(world, *, rng, n):
    """Pairs of treatment and cell type, every role as often as the world has it."""
    names = list(world.programmes)
    chosen = [names[i] for i in rng.permutation(len(names))[:n]]
    for name in chosen:
        kind = world.programmes[name].kind
        yield name, str(rng.choice(PROMPT_TYPES[kind]))


def wrong_treatment(world, name, *, knowledge, rng):
    """A treatment of the same kind that is expected to do other things."""
    mine = knowledge.perturbations[name]
    others = [
        other
        for other, programme in world.programmes.items()
        if programme.kind == world.programmes[name].kind
        and knowledge.perturbations[other].family != mine.family
        and overlap_coefficient(mine.response, knowledge.perturbations[other].response) < 0.2
        and programme.effects.any()
    ]
    return str(rng.choice(sorted(others)))


def make_prompts(world, name, cell_type, *, other, rng):
    """(treated, control) prompt cells of every kind of prompt."""
    types = [cl for cl in PROMPT_TYPES[world.programmes[name].kind] if cl != cell_type]
    drawn = {"n_cells": N_PER_DONOR, "donors": [f"d{i}" for i in range(N_DONORS)]}
    treated, control = draw(world, types, name, **drawn), draw(world, types, None, **drawn)
    query_donors = [f"q{i}" for i in range(N_DONORS)]
    query = draw(world, [cell_type], None, n_cells=N_QUERY // N_DONORS, donors=query_donors)
    prompts = {
        "right": (treated, control),
        "shuffled tables": (treated, control),
        "wrong treatment": (draw(world, types, other, **drawn), control),
        "labels swapped": (control, treated),
        "controls split": halve(control, rng=rng),
    }
    return query, prompts


def work(world, name, cell_type, *, engine, knowledge, shuffled, settings, rng):
    """Work one question five times; one row per kind of prompt."""
    other = wrong_treatment(world, name, knowledge=knowledge, rng=rng)
    query, prompts = make_prompts(world, name, cell_type, other=other, rng=rng)
    label = next(fact.name for fact in CELL_TYPES if fact.id == cell_type)
    question = f"How would {label}s respond to {name}?"
    shift = true_log_shift(world, cell_type, name)
    truth = np.array([shift[gene] for gene in world.genes])
    seed = int(rng.integers(2**31))
    made = {kind: engine(*prompts[kind], query, seed) for kind in KINDS if kind != "shuffled tables"}
    made["shuffled tables"] = made["right"]  # the prediction is the same, only what is known of it differs
    for kind in KINDS:
        predicted, reference, effect = made[kind]
        tables = shuffled if kind == "shuffled tables" else knowledge
        prompt, control = prompts[kind]
        result = score_prediction(
            GroundingCells(predicted, reference, as_adata(query), as_adata(prompt), as_adata(control)),
            query=OfflinePlanner(tables).understand(question).value,
            knowledge=tables,
            settings=settings,
            context=GroundingContext(seed=seed, engine="benchmark"),
        )
        yield {
            "world": world.seed,
            "treatment": name,
            "cell_type": label,
            "role": world.programmes[name].role if truth.any() else "no response",
            "kind": kind,
            "other": other if kind == "wrong treatment" else None,
            "score": result.composite.value,
            "accuracy": accuracy(effect, truth),
            "components": {one.name: one.score for one in result.components},
        }


def accuracy(effect, truth):
    """Pearson correlation of the predicted with the true change; None where one of them is constant."""
    return float(np.corrcoef(effect, truth)[0, 1]) if effect.std() > 0 and truth.std() > 0 else None


def make_engine(name):
    """(prompt, control, query, seed) -> treated prediction, control prediction or None, predicted effect by gene."""
    if name == "stack":
        stack = load_stack()

        def by_model(prompt, control, query, seed):
            treated = stack(prompt=prompt, control=None, query=query, seed=seed)
            untreated = stack(prompt=control, control=None, query=query, seed=seed)
            effect = treated.expected_log - untreated.expected_log
            return as_adata(query, treated), as_adata(query, untreated), effect

        return by_model

    def by_baseline(prompt, control, query, seed):
        made = predict(name, prompt=prompt, control=control, query=query, seed=seed)
        return as_adata(query, made), None, made.expected_log - mean_log(query.counts)

    return by_baseline


def auroc(right, decoy):
    """Chance that a right prompt scores above a decoy."""
    right, decoy = (np.asarray(pd.Series(side, dtype=float).dropna()) for side in (right, decoy))
    if not right.size or not decoy.size:
        return float("nan")
    ranks = rankdata(np.concatenate([right, decoy]))[: right.size]
    return (ranks.sum() - right.size * (right.size + 1) / 2) / (right.size * decoy.size)


def show(rows, *, engine):
    """Print the tables of one engine."""
    table = pd.DataFrame(rows)
    table["score"] = table["score"].astype(float)
    true = table[table["role"] == "true"]
    print(f"\n## {engine}: {table.groupby(['world', 'treatment', 'cell_type']).ngroups} questions\n")
    show_kinds(table, true)
    known = true[(true["kind"] == "right") & true["score"].notna() & true["accuracy"].notna()]
    rho, p = spearmanr(known["score"], known["accuracy"].astype(float))
    print(f"\nSpearman of score and accuracy within right prompts: {rho:.2f} (p {p:.2g}, n {len(known)})")
    for kind in ("right", "shuffled tables"):
        some = true[true["kind"] == kind]
        print(f"{kind}: median score {some['score'].median():.2f}, median accuracy {some['accuracy'].median():.3f}")
    show_components(table)


def show_kinds(table, true):
    """Scores by kind of prompt and by what the tables know of the treatment."""
    print("| prompt | n | scored | median score | share >= 7 | AUROC of right against it |\n|---|---|---|---|---|---|")
    right = true.loc[true["kind"] == "right", "score"]
    sets = {"right, tables true": right}
    for role in ("wrong", "reversed", "inert", "no response"):
        sets[f"right, {role}"] = table.loc[(table["role"] == role) & (table["kind"] == "right"), "score"]
    for kind in KINDS[1:]:
        some = true if kind == "shuffled tables" else table
        sets[kind] = some.loc[some["kind"] == kind, "score"]
    sets["all decoys"] = table.loc[table["kind"].isin(DECOYS), "score"]
    for name, scores in sets.items():
        share = np.mean(scores.dropna() >= 7) if scores.notna().any() else float("nan")
        against = "" if name == "right, tables true" else f"{auroc(right, scores):.3f}"
        print(f"| {name} | {len(scores)} | {scores.notna().sum()} | {scores.median():.2f} | {share:.1%} | {against} |")


def show_components(table):
    """Share of scores of 7 or more, by component and kind of prompt."""
    parts = pd.DataFrame(list(table["components"]), index=table.index)
    names = [name for name in parts.columns if parts[name].notna().any()]
    print(f"\n| component: share >= 7 | {' | '.join(names)} |\n|{'---|' * (len(names) + 1)}")
    for kind in KINDS:
        some = table["kind"] == kind
        if kind not in DECOYS:
            some &= table["role"] == "true"
        shares = [f"{np.mean(parts.loc[some, name].dropna().astype(float) >= 7):.1%}" for name in names]
        print(f"| {kind} | {' | '.join(shares)} |")


def write_nulls(rows, path, *, made):
    """Write the table that reports place a score in: composites of null and of wrong prompts, by kind of question."""
    table = pd.DataFrame(rows)
    table["score"] = table["score"].astype(float)
    kinds = {"null": ("labels swapped", "controls split"), "wrong_prompt": ("wrong treatment",)}
    scores = {}
    for name, some in kinds.items():
        found = table.loc[table["kind"].isin(some), "score"].dropna()
        scores[name] = sorted(round(value, 3) for value in found)
    path.write_text(json.dumps({"made": made, "perturbational": scores}) + "\n", encoding="utf-8")


def main():
    """Work the questions and print."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.grounding_quality",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--questions", type=int, default=80, help="number of questions over all worlds")
    parser.add_argument("--engine", default="weighted", choices=("shift", "weighted", "mean", "stack"), help="engine")
    parser.add_argument("--worlds", type=int, nargs="+", default=list(WORLDS[:4]), help="seeds of simulated worlds")
    parser.add_argument(
        "--out", type=Path, default=Path("grounding_quality.jsonl"), help="file that gets a line per row"
    )
    told = "also write the table of null composites (default: the packaged one); use worlds for tuning"
    parser.add_argument("--nulls", type=Path, nargs="?", const=NULLS, help=told)
    options = parser.parse_args()
    knowledge, settings = load_knowledge(), load_settings().grounding
    engine, rows = make_engine(options.engine), []
    with options.out.open("a", encoding="utf-8") as out:
        for seed in options.worlds:
            world, rng = make_world(seed, knowledge=knowledge), np.random.default_rng([seed, 1])
            shuffled = shuffle_tables(knowledge, rng=rng)
            n = -(-options.questions // len(options.worlds))
            for name, cell_type in pick_questions(world, rng=rng, n=n):
                setup = {"knowledge": knowledge, "shuffled": shuffled, "settings": settings}
                for row in work(world, name, cell_type, engine=engine, rng=rng, **setup):
                    rows.append(row)
                    out.write(json.dumps({"engine": options.engine, **row}) + "\n")
                out.flush()
                sys.stderr.write(f"{seed} {name} {rows[-1]['cell_type']}: {[r['score'] for r in rows[-5:]]}\n")
    show(rows, engine=options.engine)
    if options.nulls:
        made = (
            f"engine {options.engine}, {options.questions} questions, simulated worlds {options.worlds}, no literature"
        )
        write_nulls(rows, options.nulls, made=made)


if __name__ == "__main__":
    main()
