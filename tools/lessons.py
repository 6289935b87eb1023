"""Draw the training data of the demo model: cells and true profiles of simulated worlds, as plain arrays.

In: the seed of a tuning world. Out: an ``.npz`` that ``python -m tools.train_demo`` reads; ``python -m
tools.lessons FILE`` writes that of the packaged model.

Pairs of cell type and treatment that are held out are in the file but marked, and the trainer never shows them; the
same holds for whole treatments. The pair of the demonstration question is always held out.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from haystack_kernel.atlas.demo.facts import (
    CELL_TYPES,
    CYTOKINE_LABELS,
    DEMO_SEED,
    DRUG_LABELS,
    SEEDS_TUNING,
)
from haystack_kernel.atlas.demo.profiles import rng_of
from haystack_kernel.atlas.demo.sampling import Group, Sample, sample_cells
from haystack_kernel.atlas.demo.world import make_world
from haystack_kernel.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from haystack_kernel.atlas.demo.world import World
    from haystack_kernel.knowledge import Knowledge

DEMO_PAIR = ("CL:0002553", "TGF-beta1")  # fibroblast of lung: the demonstration question, never trained on
N_HELD_TREATMENTS = 6  # of each world, besides single pairs
_SPARED = ("TGF-beta1", "IFN-beta", "IFN-alpha1", "IFN-gamma", "TNF-alpha")  # the demo's questions ask about these
_FRAC_HELD_PAIRS = 0.15
_DATASET = "lessons"


@dataclass(frozen=True)
class LessonSize:
    """Numbers of cells per pair of cell type and treatment, and per untreated cell type, equally from every donor."""

    n_treated: int = 64
    n_control: int = 240
    n_donors: int = 8


def choose_held(world: World) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Choose the pairs and the treatments that training may not see.

    Returns
    -------
    Held pairs (treatments x cell types; all True for a held treatment) and held treatments, in the world's order.
    Non-responding and inert pairs are held out like any other.
    """
    rng = rng_of(world.seed, _DATASET, "held")
    names = list(world.programmes)
    candidates = [i for i, name in enumerate(names) if name not in _SPARED and world.programmes[name].role != "inert"]
    treatments = np.zeros(len(names), dtype=bool)
    treatments[rng.choice(candidates, N_HELD_TREATMENTS, replace=False)] = True
    pairs = rng.random((len(names), len(CELL_TYPES))) < _FRAC_HELD_PAIRS
    pairs[names.index(DEMO_PAIR[1]), world.row(DEMO_PAIR[0])] = True
    pairs[treatments] = True
    return pairs, treatments


def make_lessons(seed: int, *, knowledge: Knowledge, size: LessonSize | None = None) -> dict[str, NDArray[np.generic]]:
    """Draw the cells of one world.

    Parameters
    ----------
    seed
        One of ``SEEDS_TUNING``.
    knowledge
        Knowledge tables, which the world follows in part.
    size
        Cells per group.

    Returns
    -------
    Arrays of an ``.npz``: ``genes``, ``cell_types`` (CL ids), ``treatments`` (canonical names), ``share`` (1 +
    treatments, cell types, genes; the untreated first; rows sum to 1), CSR parts ``control_*`` and ``treated_*`` with
    ``…_type`` and ``treated_treatment`` per cell, ``control_expected`` (cells x genes, float16, shares that sum to 1),
    ``held_pairs``, ``held_treatments`` and ``families`` (2, cell types): the types shown together in the two data sets.

    Raises
    ------
    InvalidInputError
        A seed that is reserved for reported numbers.
    """
    if seed not in SEEDS_TUNING:
        msg = f"seed {seed} is not for training; use one of {SEEDS_TUNING.start} to {SEEDS_TUNING.stop - 1}"
        raise InvalidInputError(msg, seed=seed)
    size = size or LessonSize()
    world = make_world(seed, knowledge=knowledge)
    held_pairs, held_treatments = choose_held(world)
    types = [fact.id for fact in CELL_TYPES]
    control, expected = zip(
        *(_draw(world, None, donor, size.n_control // size.n_donors) for donor in range(size.n_donors)), strict=True
    )
    names = list(world.programmes)
    treated = [
        _draw(world, name, donor, size.n_treated // size.n_donors)[0]
        for name in names
        for donor in range(size.n_donors)
    ]
    whole = np.concatenate(expected)
    per_type = np.arange(len(types))
    families = np.zeros((2, len(types)), dtype=bool)
    for row, labels in enumerate((CYTOKINE_LABELS, DRUG_LABELS)):
        families[row] = np.isin(types, [cl for cl, _ in labels.values()])
    shares = np.array([world.share(cl, name) for name in (None, *names) for cl in types], dtype=np.float32)
    return {
        "genes": np.array(world.genes),
        "cell_types": np.array(types),
        "treatments": np.array(names),
        "is_drug": np.array([world.programmes[name].kind == "drug" for name in names]),
        "share": shares.reshape(1 + len(names), len(types), -1),
        "control_expected": (whole / whole.sum(axis=1, keepdims=True)).astype(np.float32),
        "control_type": np.tile(np.repeat(per_type, size.n_control // size.n_donors), size.n_donors),
        "treated_type": np.tile(np.repeat(per_type, size.n_treated // size.n_donors), size.n_donors * len(names)),
        "treated_treatment": np.repeat(np.arange(len(names)), size.n_treated * len(types)),
        "held_pairs": held_pairs,
        "held_treatments": held_treatments,
        "families": families,
        **_parts("control", sp.vstack(control, format="csr")),
        **_parts("treated", sp.vstack(treated, format="csr")),
    }


def _draw(world: World, treatment: str | None, donor: int, n_cells: int) -> tuple[sp.csr_matrix, NDArray[np.float32]]:
    groups = tuple(Group(fact.id, n_cells) for fact in CELL_TYPES)
    return sample_cells(world, Sample(_DATASET, f"donor{donor}", treatment, groups))


def _parts(name: str, matrix: sp.csr_matrix) -> dict[str, NDArray[np.generic]]:
    return {
        f"{name}_data": matrix.data.astype(np.uint16),
        f"{name}_indices": matrix.indices.astype(np.int32),
        f"{name}_indptr": matrix.indptr.astype(np.int64),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Write the training data of one world to a file."""
    from haystack_kernel.knowledge import load_knowledge

    parser = argparse.ArgumentParser(
        prog="python -m tools.lessons", description="Write what the demo model is trained on."
    )
    parser.add_argument("output", type=Path, help="an .npz file")
    parser.add_argument("--seed", type=int, default=DEMO_SEED, help="the world (default: that of the demo atlas)")
    found = parser.parse_args(argv)
    found.output.parent.mkdir(parents=True, exist_ok=True)
    np.savez(found.output, allow_pickle=False, **make_lessons(found.seed, knowledge=load_knowledge()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
