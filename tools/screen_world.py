"""A simulated data set in the form of a screen: many treatments in a few cell types, of which some are left to predict.

In: a seed. Out: a world whose truth is known, and its cells as AnnData in the columns of Parse 10M PBMC.

More of these treatments do nothing than in the demo, and most of the others do little, as in real screens of drugs.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from haystack_kernel.atlas.demo.facts import CYTOKINE_LABELS
from haystack_kernel.atlas.demo.profiles import rng_of
from haystack_kernel.atlas.demo.programmes import LABELS, TWINS, expected_genes
from haystack_kernel.atlas.demo.sampling import Group, Sample, sample_counts
from haystack_kernel.atlas.demo.world import make_world
from tools.truth import true_log_shift

if TYPE_CHECKING:
    from haystack_kernel.atlas.demo.programmes import Role
    from haystack_kernel.atlas.demo.world import World
    from haystack_kernel.knowledge import Knowledge

DATASET = "screen_pbmc"
N_TREATMENTS = 147
FRACTIONS: dict[Role, float] = {"inert": 0.30, "wrong": 0.08, "reversed": 0.07}
WEAKEST = 0.15  # factors on the effects of a treatment lie between it and 1, evenly on the log scale
N_DONORS, DONORS_PER_TREATMENT, CONTROL_FACTOR = 12, 8, 1.5
ASKED = {"CD16 Mono": "CL:0002396", "CD8 Memory": "CL:0000909"}  # never treated: what a screen is asked about


def choose_labels(knowledge: Knowledge, *, n: int = N_TREATMENTS) -> tuple[str, ...]:
    """Treatments of the demo, then drugs and cytokines of the tables in turn, each with at least ten genes."""
    known = [label for label in LABELS if label not in TWINS]
    seen = {entry.casefold() for entry in known}
    more = [
        entry.name
        for kind in ("drug", "cytokine")
        for entry in knowledge.perturbations.values()
        if entry.type == kind
        and entry.name.casefold() not in seen
        and "ntibody" not in entry.name
        and len(expected_genes(entry, knowledge=knowledge)) >= 10
    ]
    return (*known, *more)[:n]


def make_screen_world(seed: int, *, knowledge: Knowledge, n: int = N_TREATMENTS) -> World:
    """Draw a world with ``n`` treatments: three in ten inert, the others from strong to hardly visible."""
    labels = choose_labels(knowledge, n=2 * n)
    world = make_world(seed, knowledge=knowledge, labels=labels, fractions=FRACTIONS)
    kept = list(world.programmes.items())[:n]
    programmes = {}
    for name, programme in kept:
        factor = np.exp(rng_of(seed, "factor", name).uniform(np.log(WEAKEST), 0.0))
        programmes[name] = replace(programme, effects=(factor * programme.effects).astype(np.float32))
    return replace(world, programmes=programmes)


def draw_screen(world: World) -> ad.AnnData:
    """Draw the cells: every cell type untreated, all but the asked ones treated, each treatment in eight donors."""
    donors = [f"Donor{number}" for number in range(1, N_DONORS + 1)]
    wells: list[tuple[str, str | None, str]] = [(donor, None, "PBS") for donor in donors]
    for programme in world.programmes.values():
        chosen = rng_of(world.seed, "donors", programme.label).permutation(N_DONORS)[:DONORS_PER_TREATMENT]
        wells += [(donors[place], programme.name, programme.label) for place in sorted(chosen)]
    rows: list[pd.DataFrame] = []
    parts = [_sample(world, donor, treatment, rows=rows, label=label) for donor, treatment, label in wells]
    obs: pd.DataFrame = pd.concat(rows, ignore_index=True).astype("category")
    obs.index = pd.Index([f"{DATASET}-{number:06d}" for number in range(len(obs))])
    var = pd.DataFrame(index=pd.Index(world.genes))
    return ad.AnnData(sparse.vstack(parts, format="csr"), obs=obs, var=var, uns={"simulated": True})


def _sample(
    world: World, donor: str, treatment: str | None, *, rows: list[pd.DataFrame], label: str
) -> sparse.csr_matrix:
    factor = CONTROL_FACTOR if treatment is None else 1.0
    sizes = {
        name: (cl_id, round(factor * n_cells))
        for name, (cl_id, n_cells) in CYTOKINE_LABELS.items()
        if treatment is None or name not in ASKED
    }
    names = [name for name, (_, n_cells) in sizes.items() for _ in range(n_cells)]
    treated = "PBS" if treatment is None else "cytokine"
    rows.append(
        pd.DataFrame(
            {
                "cell_type": names,
                "cytokine": label,
                "treatment": treated,
                "donor": donor,
                "sample": f"{donor}_{label}",
            }
        )
    )
    groups = tuple(Group(cl_id, n_cells) for cl_id, n_cells in sizes.values())
    return sample_counts(world, Sample(DATASET, donor, treatment, groups))


def true_effects(world: World, cell_type: str) -> pd.DataFrame:
    """True change of mean log1p(CP10k), treatments x genes, in cells of one type."""
    rows = {name: true_log_shift(world, cell_type, name) for name in world.programmes}
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(world.genes))
