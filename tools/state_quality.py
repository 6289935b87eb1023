"""What the score of a question about a state of cells is worth: right prompts against nulls, on simulated worlds.

In: seeds of worlds. Out: a Markdown table on stdout, one JSON line per prediction in a file, and with ``--nulls`` the
packaged table of null composites. Run it as ``python -m tools.state_quality``.

Every world is an atlas of donors without a treatment, searched, assembled and scored as a run does. Three questions are
asked of each: a cell type that a donor lacks, a type of a donor from his other types, and how patients differ from
healthy donors, where a disease acts as one of the world's cytokines does. Nulls: labels swapped, control cells split in
two, cells dealt to donors by chance, and a disease that does nothing (its label given to some of the donors). Wrong
prompts: another cell type, another donor, another disease. With ``--people`` the cells are those of real people
instead, whose disease is made up.
"""

import argparse
import json
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from haystack_kernel import keys
from haystack_kernel.config.settings import load_settings
from haystack_kernel.errors import NoCandidateError
from haystack_kernel.grounding import GroundingCells, GroundingContext, score_prediction
from haystack_kernel.grounding.confidence.aspects import NULLS
from haystack_kernel.grounding.tested import compare_with_truth
from haystack_kernel.knowledge import load_knowledge
from haystack_kernel.knowledge.terms import NORMAL
from haystack_kernel.planners.offline.choice import choose_candidates
from haystack_kernel.retrieval import (
    assemble_cells,
    choose_query_cells,
    fetch_hidden,
    fetch_reference,
    hide_patients,
    search_candidates,
)
from haystack_kernel.schema import RunConfig, StructuredQuery
from inference.baselines import Cells, predict
from tools.grounding_quality import as_adata, wrong_treatment

WORLDS = range(6301, 6306)  # no tuning has touched them
N_DONORS, N_PER_DONOR, HIGH = 4, 30, 7.0
MIN_CELLS = 10  # of a type in more than half of the real people
DESIGNS = ("imputation", "donor", "disease")
LUPUS, OTHER = ("MONDO:0007915", "systemic lupus erythematosus"), ("MONDO:0008383", "rheumatoid arthritis")
DONOR, IMPUTE = "donor_expression_prediction", "cell_type_imputation"
NULL_KINDS = ("labels swapped", "controls split", "no difference")


class TableAtlas:
    """An atlas in memory: counts, and one row of labels per cell."""

    def __init__(self, counts, genes, labels):
        names = load_knowledge().cell_types
        obs = pd.DataFrame("", index=range(len(labels)), columns=list(keys.CELL_COLUMNS))
        for column, values in labels.items():
            obs[column] = values.to_numpy()
        obs[keys.CELL_TYPE] = [names[one].name for one in obs[keys.CELL_TYPE_ID]]
        obs[keys.ATLAS], obs[keys.DATASET], obs[keys.IS_CONTROL] = "tiny", "blood", True
        obs[keys.CELL_INDEX] = range(len(obs))
        obs[keys.CELL_ID] = [f"tiny/blood/{row:06d}" for row in obs[keys.CELL_INDEX]]
        self.cells, self.counts, self.genes = obs, sparse.csr_matrix(counts, dtype=np.float32), list(genes)

    def conditions(self):
        """One row per distinct condition."""
        by = [
            name
            for name in self.cells.columns
            if name not in {keys.CELL_ID, keys.CELL_INDEX, keys.N_GENES, keys.TOTAL_COUNTS}
        ]
        return (
            self.cells.groupby(by, sort=True).size().rename("n_cells").reset_index().assign(median_total_counts=1500.0)
        )

    def select(self, cell_set):
        """Cells that satisfy the criteria."""
        kept = pd.Series(data=True, index=self.cells.index)
        wanted = {
            keys.CELL_TYPE_ID: cell_set.cell_type_ids,
            keys.DONOR: cell_set.donor_ids,
            keys.TISSUE_ID: cell_set.tissue_ids,
            keys.DISEASE_ID: cell_set.disease_ids,
        }
        for column, values in wanted.items():
            kept &= self.cells[column].isin(values) if values else True
        return self.cells[kept].reset_index(drop=True)

    def fetch(self, cells):
        """Raw counts of cells."""
        var = pd.DataFrame(index=self.genes)
        return ad.AnnData(self.counts[cells[keys.CELL_INDEX].to_numpy(int)], obs=cells.set_index(keys.CELL_ID), var=var)


def as_cells(adata):
    """Cells as the engines take them."""
    labels = adata.obs[[keys.CELL_TYPE, keys.DONOR]].astype(str)
    return Cells(adata.X, tuple(adata.var_names), labels[keys.CELL_TYPE].to_numpy(), labels[keys.DONOR].to_numpy())


def gather(query, atlas, *, knowledge, settings, config):
    """Prompt, control, query and reference cells, and what was hidden, as a run finds them."""
    names = {"atlas": atlas, "knowledge": knowledge, "config": config}
    found = search_candidates(query, settings=settings.retrieval, **names)
    choice = choose_candidates(query, found, [], config=config)
    used = [one for one in found if one.key in choice.candidate_keys]
    query_set = choose_query_cells(query, candidates=found, **names)
    cells = assemble_cells(used, query_set=query_set, atlas=atlas, config=config, round_number=1)
    reference = fetch_reference(query, query_set=query_set, **names)
    return cells, reference, hide_patients(query, **names)


def score(arms, query_cells, *, query, reference, knowledge, settings, seed):
    """The scored prediction of a prompt and its control."""
    prompt, control = arms
    made = predict(
        "weighted", prompt=as_cells(prompt), control=as_cells(control), query=as_cells(query_cells), seed=seed
    )
    treated = as_adata(as_cells(query_cells), made)
    treated.obs = query_cells.obs.copy()
    return score_prediction(
        GroundingCells(treated, None, query_cells, prompt, control),
        query=query,
        knowledge=knowledge,
        settings=settings.grounding,
        context=GroundingContext(seed=seed, engine="weighted"),
        reference=reference,
    )


def halves(adata, *, rng):
    """Two random halves of the cells of every type and donor."""
    obs = adata.obs[[keys.CELL_TYPE, keys.DONOR]].astype(str).reset_index(drop=True)
    first = np.zeros(adata.n_obs, dtype=bool)
    for rows in obs.groupby([keys.CELL_TYPE, keys.DONOR]).indices.values():
        first[rng.permutation(rows)[: len(rows) // 2]] = True
    return adata[first].copy(), adata[~first].copy()


def ask(task, cl_id, *, knowledge, **fields):
    """A query as a planner makes it."""
    known = knowledge.cell_types[cl_id]
    return StructuredQuery(
        question="-",
        task_type=task,
        cell_type_id=cl_id,
        cell_type_name=known.name,
        cell_type_text=known.name,
        marker_genes=known.markers,
        **fields,
    )


def deal(labels, *, rng):
    """The same labels, cells of each type dealt to donors and states by chance."""
    dealt = labels.copy()
    for rows in labels.groupby(keys.CELL_TYPE_ID).indices.values():
        dealt.iloc[rows, labels.columns.get_indexer([keys.DONOR, keys.DISEASE_ID, keys.DISEASE])] = labels.iloc[
            rng.permutation(rows)
        ][[keys.DONOR, keys.DISEASE_ID, keys.DISEASE]].to_numpy()
    return dealt


class Question:
    """What every prediction of one question about one set of people shares."""

    def __init__(self, cl_id, *, donor, knowledge, settings, seed, rng):
        self.cl_id, self.donor, self.seed, self.rng = cl_id, donor, seed, rng
        self.setup = {"knowledge": knowledge, "settings": settings}
        self.config = RunConfig(atlases=("tiny",), engine="weighted", n_query=64, seed=seed)

    def ask(self, task, cl_id=None, **fields):
        """A query as a planner makes it."""
        return ask(task, cl_id or self.cl_id, knowledge=self.setup["knowledge"], **fields)

    def gather(self, query, atlas):
        """Cells by role, reference cells, and what was hidden."""
        return gather(query, atlas, config=self.config, **self.setup)

    def row(self, design, kind, query, cells, reference, *, arms=None, truth=None):
        """One line of the table: the score of prompt and control, which may be others than those found."""
        arms = arms or (cells.prompt_cells, cells.control_cells)
        made = score(arms, cells.query_cells, query=query, reference=reference, seed=self.seed, **self.setup)
        return {
            "design": design,
            "kind": kind,
            "cell_type": query.cell_type_name,
            "score": made.composite.value,
            "components": {one.name: one.score for one in made.components},
            "p": {one.name: [one.p_signal, one.p_donors, one.p_specificity] for one in made.components},
            "n_called": int(made.de[keys.IS_DE].sum()),
            "expected": made.confidence.expected.value,
            "truth": truth(made.de) if truth is not None else {},
            "reason": made.composite.reason,
        }


def impute(question, people, *, other_type):
    """Rows of the question for a cell type that the donor lacks."""
    counts, genes, labels = people("none")
    lacks = (labels[keys.DONOR] != question.donor) | (labels[keys.CELL_TYPE_ID] != question.cl_id)
    atlas = TableAtlas(counts[lacks.to_numpy()], genes, labels[lacks])
    query = question.ask(IMPUTE, donor_id=question.donor)
    cells, reference, _ = question.gather(query, atlas)
    arms = cells.prompt_cells, cells.control_cells
    yield question.row(IMPUTE, "right", query, cells, reference)
    yield question.row(IMPUTE, "labels swapped", query, cells, reference, arms=arms[::-1])
    split = halves(arms[1], rng=question.rng)
    yield question.row(IMPUTE, "controls split", query, cells, reference, arms=split)
    wrong, _, _ = question.gather(question.ask(IMPUTE, other_type, donor_id=question.donor), atlas)
    yield question.row(IMPUTE, "wrong prompt", query, wrong, reference)


def of_donor(question, people, *, other_donor):
    """Rows of the question for a type of a donor, from his other types."""
    counts, genes, labels = people("none")
    query, atlas = question.ask(DONOR, donor_id=question.donor), TableAtlas(counts, genes, labels)
    cells, reference, _ = question.gather(query, atlas)
    yield question.row("donor", "right", query, cells, reference)
    arms = cells.control_cells, cells.prompt_cells
    yield question.row("donor", "labels swapped", query, cells, reference, arms=arms)
    wrong, _, _ = question.gather(question.ask(DONOR, donor_id=other_donor), atlas)
    yield question.row("donor", "wrong prompt", query, wrong, reference)
    cells, reference, _ = question.gather(query, TableAtlas(counts, genes, deal(labels, rng=question.rng)))
    yield question.row("donor", "no difference", query, cells, reference)


def of_disease(question, people):
    """Rows of the question how patients differ from healthy donors."""
    query, references = question.ask(DONOR, disease_id=LUPUS[0], disease_name=LUPUS[1]), {}
    for kind, state in (("right", "asked"), ("no difference", "none"), ("wrong prompt", "other")):
        cohort = people(state)
        if cohort is None:
            continue
        atlas = TableAtlas(*cohort)
        cells, references[kind], hidden = question.gather(query, atlas)
        truth = None
        if kind != "wrong prompt" and hidden:
            truth = Measured(hidden[0], atlas=atlas, config=question.config, cells=cells)
        reference = references["right"] if kind == "wrong prompt" else references[kind]
        yield question.row("disease", kind, query, cells, reference, truth=truth)
        if kind == "right":
            arms = cells.control_cells, cells.prompt_cells
            yield question.row("disease", "labels swapped", query, cells, reference, arms=arms)


class Measured:
    """The measured difference, which a prediction is held against."""

    def __init__(self, hidden, *, atlas, config, cells):
        used = set(cells.query_cells.obs_names)
        self.found = fetch_hidden(hidden, atlas=atlas, config=config, without=used)

    def __call__(self, de):
        """Correlation and share of the same direction."""
        if self.found is None:
            return {}
        told = compare_with_truth(self.found.treated, self.found.control, de=de, label="", pair="")
        return {"r": told.pearson, "same": told.same_direction}


def work(people, *, knowledge, settings, rng, n_types, designs):
    """Rows of one set of people; ``people`` gives counts, genes and labels of a kind of disease, None for no people."""
    labels = people("none")[2]
    types, donors = (list(labels[name].unique()) for name in (keys.CELL_TYPE_ID, keys.DONOR))
    for cl_id in rng.permutation(types)[:n_types]:
        donor, other_donor = (str(one) for one in rng.permutation(donors)[:2])
        seed = int(rng.integers(2**31))
        question = Question(str(cl_id), donor=donor, knowledge=knowledge, settings=settings, seed=seed, rng=rng)
        other_type = str(rng.choice([one for one in types if one != cl_id]))
        parts = {
            "imputation": impute(question, people, other_type=other_type),
            "donor": of_donor(question, people, other_donor=other_donor),
            "disease": of_disease(question, people),
        }
        for name in designs:
            try:
                yield from parts[name]
            except NoCandidateError as error:
                sys.stderr.write(f"{name} {cl_id}: {error}\n")


def people_of_world(world, *, knowledge, rng, n_donors):
    """Donors of a simulated world; patients are those in whom a cytokine acts."""
    from tools.simulated import PROMPT_TYPES, draw

    types = [str(one) for one in rng.permutation(PROMPT_TYPES["cytokine"])[:6]]
    acting = [name for name, one in world.programmes.items() if one.kind == "cytokine" and one.effects.any()]
    asked = str(rng.choice(acting))
    other = wrong_treatment(world, asked, knowledge=knowledge, rng=rng)

    def people(kind):
        treatment = {"none": None, "asked": asked, "other": other}[kind]
        parts = []
        for side, given in (("healthy", None), ("patient", treatment)):
            cells = draw(world, types, given, n_cells=N_PER_DONOR, donors=[f"{side}{i}" for i in range(n_donors)])
            parts.append((cells, LUPUS if side == "patient" else (NORMAL, "normal")))
        labels = pd.concat(
            [
                pd.DataFrame(
                    {
                        keys.CELL_TYPE_ID: cells.cell_type,
                        keys.DONOR: cells.donor,
                        keys.DISEASE_ID: state[0],
                        keys.DISEASE: state[1],
                    }
                )
                for cells, state in parts
            ],
            ignore_index=True,
        )
        return sparse.vstack([cells.counts for cells, _ in parts], format="csr"), world.genes, labels

    return people


def people_of_files(paths, *, knowledge, rng, most=80):
    """Real people, some of whom get a disease by chance; at most ``most`` control cells of each type and donor."""
    parts = []
    for path in paths:
        adata = ad.read_h5ad(path)
        labels = adata.obs[["cell_type_ontology_term_id", "donor_id", "perturbation"]].astype(str)
        known = labels["cell_type_ontology_term_id"].isin(set(knowledge.cell_types)) & (
            labels["perturbation"] == "control"
        )
        parts.append(ad.AnnData(adata.X.tocsr(), obs=labels, var=adata.var[[]])[known.to_numpy()].copy())
    cells = ad.concat(parts, index_unique="-")
    by = ["cell_type_ontology_term_id", "donor_id"]
    rank = (
        pd.Series(rng.permutation(cells.n_obs), index=cells.obs_names).groupby([cells.obs[name] for name in by]).rank()
    )
    cells = cells[(rank <= most).to_numpy()].copy()
    sizes = cells.obs.groupby(by, observed=True).size().unstack(fill_value=0)
    common = sizes.index[(sizes >= MIN_CELLS).sum(axis=1) > 1 + sizes.shape[1] // 2]
    cells = cells[cells.obs[by[0]].isin(common).to_numpy()].copy()
    donors = list(pd.unique(cells.obs["donor_id"]))
    chosen = set(rng.permutation(donors)[: len(donors) // 2])

    def people(kind):
        if kind != "none":
            return None
        is_patient = cells.obs["donor_id"].isin(chosen).to_numpy()
        labels = pd.DataFrame(
            {
                keys.CELL_TYPE_ID: cells.obs[by[0]].to_numpy(str),
                keys.DONOR: cells.obs["donor_id"].to_numpy(str),
                keys.DISEASE_ID: np.where(is_patient, LUPUS[0], NORMAL),
                keys.DISEASE: np.where(is_patient, LUPUS[1], "normal"),
            }
        )
        return cells.X, list(cells.var_names), labels

    return people


def show(rows):
    """Print a line for each kind of prompt."""
    table = pd.DataFrame(rows)
    print(
        "| question | prompt | n | scored | median | most | share >= 7 | genes called (median, most) | r with truth |"
    )
    print(f"|{'---|' * 9}")
    for (design, kind), some in table.groupby(["design", "kind"], sort=False):
        scores = some["score"].astype(float)
        known, called = scores.dropna(), some["n_called"]
        r = pd.Series([one.get("r", np.nan) for one in some["truth"]], dtype=float)
        share = f"{np.mean(known >= HIGH):.1%}" if len(known) else "-"
        print(
            f"| {design} | {kind} | {len(some)} | {len(known)} | {known.median():.1f} | {known.max():.1f} | {share} | "
            f"{called.median():.0f}, {called.max()} | {r.mean():.2f} |"
        )


def write_nulls(rows, path, *, made):
    """Add the composites of null and wrong prompts to the packaged table, by kind of question.

    Patients of another disease are no null: nothing tells one disease from another where a data set holds only one.
    """
    table = pd.DataFrame(rows)
    held = json.loads(path.read_text(encoding="utf-8"))
    table = table[(table["design"] != "disease") | (table["kind"] != "wrong prompt")]
    for design, some in table.groupby("design"):
        kinds = {"null": some["kind"].isin(NULL_KINDS), "wrong_prompt": some["kind"] == "wrong prompt"}
        held[design] = {
            name: sorted(round(value, 3) for value in some.loc[mask, "score"].astype(float).dropna())
            for name, mask in kinds.items()
        }
    held["made_states"] = made
    path.write_text(json.dumps(held) + "\n", encoding="utf-8")


def main():
    """Work the questions and print."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.state_quality", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--worlds", type=int, nargs="+", default=list(WORLDS), help="seeds of simulated worlds")
    parser.add_argument("--types", type=int, default=3, help="cell types asked about per world")
    parser.add_argument("--donors", type=int, default=N_DONORS, help="patients, and as many healthy donors")
    parser.add_argument("--people", type=Path, nargs="+", help="h5ad of control cells; seeds then deal the disease")
    parser.add_argument("--designs", nargs="+", default=DESIGNS, choices=DESIGNS, help="kinds of question")
    parser.add_argument("--out", type=Path, default=Path("state_quality.jsonl"), help="file that gets a line per row")
    parser.add_argument("--nulls", type=Path, nargs="?", const=NULLS, help="also write the table of null composites")
    options = parser.parse_args()
    knowledge, settings = load_knowledge(), load_settings()
    rows = []
    with options.out.open("a", encoding="utf-8") as out:
        for seed in options.worlds:
            rng = np.random.default_rng([seed, 3])
            if options.people:
                people = people_of_files(options.people, knowledge=knowledge, rng=rng)
            else:
                from haystack_kernel.atlas.demo.world import make_world

                people = people_of_world(
                    make_world(seed, knowledge=knowledge), knowledge=knowledge, rng=rng, n_donors=options.donors
                )
            setup = {"knowledge": knowledge, "settings": settings, "n_types": options.types}
            for row in work(people, rng=rng, designs=options.designs, **setup):
                rows.append({"seed": seed, **row})
                out.write(json.dumps(rows[-1]) + "\n")
                out.flush()
                sys.stderr.write(
                    f"{seed} {row['design']} {row['kind']} {row['cell_type']}: {row['score']:.1f} {row['n_called']}\n"
                )
    show(rows)
    if options.nulls:
        write_nulls(
            rows,
            options.nulls,
            made=f"engine weighted, simulated worlds {options.worlds}, {options.donors} donors a side",
        )


if __name__ == "__main__":
    main()
