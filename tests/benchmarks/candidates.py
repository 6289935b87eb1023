"""Which prompt cells are found: ten questions of all five task types on the demo atlas, with and without the answer.

Run from the root of the checkout: ``python -m tests.benchmarks.candidates [FOLDER]``.

In: a folder for the demo atlas (default: a temporary one). Out: candidate tables and a summary in Markdown on stdout.

``r`` is the Pearson correlation, over genes, of what a candidate shows (mean log1p CP10k of prompt minus control) with
the answer: the simulated world's true effect where a treatment is asked for, else the target's own measured cells minus
the query cells. Candidates are chosen without it. For questions without a treatment, "hidden" bans what answers best.
"""

import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from haystack_kernel.atlas import open_atlases
from haystack_kernel.atlas.demo import DEMO_SEED, ensure_demo
from haystack_kernel.atlas.demo.world import make_world
from haystack_kernel.config.options import parse_hidden
from haystack_kernel.knowledge import load_knowledge
from haystack_kernel.planners.offline import OfflinePlanner
from haystack_kernel.report import CandidateTable
from haystack_kernel.retrieval import choose_query_cells, search_candidates
from haystack_kernel.schema import CellSet, RetrievalSettings, RunConfig
from tools.truth import true_log_shift


@dataclass(frozen=True)
class Case:
    """A question, how its answer is hidden, and where the answer is in the atlas."""

    question: str
    hide: tuple[str, ...] = ()
    ban: tuple[str, ...] = ()
    answer: dict = field(default_factory=dict)  # criteria of the target's own cells, without a treatment


TISSUES = {"atlas": "demo", "dataset": "demo_tissues", "is_control": True}
CASES = (
    Case("How would CD16+ monocytes respond to IFN-beta?", hide=("CD16+ monocyte:IFN-beta",)),
    Case("How would CD8 T cells respond to vorinostat?", hide=("CD8 T cell:vorinostat",)),
    Case("How would classical monocytes of donor Donor3 respond to IFN-gamma?", hide=("classical monocyte:IFN-gamma",)),
    Case("How would natural killer cells of donor Donor5 respond to TNF-alpha?", hide=("NK cell:TNF-alpha",)),
    Case(
        "Impute the skin fibroblasts of donor TSP2.",
        ban=("cell_type=skin fibroblast",),
        answer={**TISSUES, "cell_type_ids": ("CL:0002620",), "donor_ids": ("demo_tissues:TSP2",)},
    ),
    Case(
        "What would endothelial cells look like in liver?",
        ban=("cell_type=endothelial cell,tissue=liver",),
        answer={**TISSUES, "cell_type_ids": ("CL:0000115",), "tissue_ids": ("UBERON:0002107",)},
    ),
    Case(
        "Predict the expression of CD8 T cells of donor TSP7 from the donor's other cells.",
        ban=("cell_type=CD4 T cell",),
        answer={**TISSUES, "cell_type_ids": ("CL:0000625",), "donor_ids": ("demo_tissues:TSP7",)},
    ),
    Case(
        "Predict the expression profile of alveolar macrophages in donor TSP14.",
        ban=("cell_type=classical monocyte",),
        answer={**TISSUES, "cell_type_ids": ("CL:0000583",), "donor_ids": ("demo_tissues:TSP14",)},
    ),
    Case(
        "Transfer the response of B cells to IFN-beta from dataset demo_cytokine_pbmc to dataset demo_tissues.",
        hide=("B cell:IFN-beta",),
    ),
    Case(
        "Transfer the response of NK cells to trichostatin A from dataset demo_drug_pbmc to dataset demo_tissues.",
        hide=("NK cell:trichostatin A",),
    ),
)


class Bench:
    """The demo atlas, its world and the planner, made once."""

    def __init__(self, root):
        ensure_demo(root)
        self.knowledge = load_knowledge()
        self.atlas = open_atlases(["demo"], root=root)
        self.world = make_world(DEMO_SEED, knowledge=self.knowledge)
        self.planner = OfflinePlanner(self.knowledge)
        self.cache = Path(root) / "demo" / "vectors"
        self._means = {}

    def search(self, query, *, hide=(), ban=(), n_top=10):
        """Candidates and query cells."""
        config = RunConfig(hide=tuple(parse_hidden(one) for one in hide), ban=ban)
        settings = RetrievalSettings(n_top=n_top)
        found = search_candidates(
            query, atlas=self.atlas, knowledge=self.knowledge, settings=settings, config=config, cache=self.cache
        )
        chosen = choose_query_cells(query, atlas=self.atlas, knowledge=self.knowledge, candidates=found, config=config)
        return found, chosen

    def answer(self, case, query, query_set):
        """What the prompt should show, one value per gene."""
        if query.perturbation is not None:
            return pd.Series(true_log_shift(self.world, query.cell_type_id, query.perturbation.name))
        return self.mean(CellSet(**case.answer)) - self.mean(query_set)

    def shown(self, candidate):
        """What a candidate shows; None without a control."""
        return None if candidate.control is None else self.mean(candidate.prompt) - self.mean(candidate.control)

    def mean(self, cell_set):
        """Mean log1p CP10k by gene."""
        if cell_set.key not in self._means:
            adata = self.atlas.fetch(self.atlas.select(cell_set))
            depth = np.asarray(adata.X.sum(axis=1)).ravel()
            rates = adata.X.multiply(1e4 / np.maximum(depth, 1)[:, None]).tocsr()
            rates.data = np.log1p(rates.data)
            self._means[cell_set.key] = pd.Series(np.asarray(rates.mean(axis=0)).ravel(), index=adata.var_names)
        return self._means[cell_set.key]


def pearson(one, other):
    """Correlation over the genes both have; NaN where one side does not vary."""
    if one is None:
        return float("nan")
    both = pd.concat([one, other], axis=1, join="inner")
    return float("nan") if (both.std() == 0).any() else float(both.corr().iloc[0, 1])


def table(bench, found, *, answer):
    """The candidates as printed: one line each."""
    frame = CandidateTable(found).to_frame()
    frame.insert(0, "r", [pearson(bench.shown(one), answer) for one in found])
    columns = ["r", "strategy", "evidence_distance", "cell_type", "perturbation", "dataset", "n_cells", "relevance"]
    return frame[[*columns, "diversity", "quality", "score", "key"]].round(3)


def main(root):
    """Print everything."""
    bench, rows = Bench(root), []
    for number, case in enumerate(CASES, 1):
        query = bench.planner.understand(case.question).value
        print(f"\n## {number}. {case.question} [{query.task_type}]")
        for what, limits in (("all", {}), ("hidden", {"hide": case.hide, "ban": case.ban})):
            found, query_set = bench.search(query, **limits)
            answer = bench.answer(case, query, query_set)
            shown = table(bench, found, answer=answer)
            print(f"\n{what} {limits or ''}; query cells: {query_set.n_cells} of {query_set.key}")
            print(shown.to_string(index=False))
            print(f"first: {found[0].reason}. {found[0].control_reason}")
            rows.append(
                {
                    "question": number if what == "all" else "",
                    "task": query.task_type if what == "all" else "",
                    "sets": what,
                    "first": f"{shown['perturbation'][0] or 'unperturbed'} in {shown['cell_type'][0]}",
                    "strategy": shown["strategy"][0],
                    "evidence": shown["evidence_distance"][0],
                    "relevance": shown["relevance"][0],
                    "r of first": shown["r"][0],
                    "best r": shown["r"].max(),
                    "its rank": int(shown["r"].argmax()) + 1 if shown["r"].notna().any() else "",
                    "median r": round(shown["r"].median(), 3),
                }
            )
    print()
    columns = list(rows[0])
    for line in (columns, ["---"] * len(columns), *([str(row[name]) for name in columns] for row in rows)):
        print(f"| {' | '.join(line)} |")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(sys.argv[1])
    else:
        with tempfile.TemporaryDirectory() as folder:
            main(folder)
