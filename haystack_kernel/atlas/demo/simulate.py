"""The three simulated data sets, in the form of the real data sets that they imitate.

In: a world. Out: AnnData objects in the columns of Parse 10M PBMC, OpenProblems 2023 and Tabula Sapiens.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import anndata as ad
import pandas as pd
import scipy.sparse as sp

from haystack_kernel.atlas.demo import facts
from haystack_kernel.atlas.demo.profiles import rng_of
from haystack_kernel.atlas.demo.sampling import Group, Sample, sample_counts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from haystack_kernel.atlas.demo.world import World

CYTOKINE, DRUG, TISSUES = "demo_cytokine_pbmc", "demo_drug_pbmc", "demo_tissues"
NOTE = (
    "Simulated by HAYSTACK for demonstration. No cell, donor or response in it was measured; depth and dispersion "
    "imitate Kang 2018 (GEO GSE96583). Never cite it as data."
)
Plan = list[tuple[Sample, pd.DataFrame]]  # a sample and the obs of its cells
_N_THREADS = 2


def simulate(world: World, *, progress: Callable[[str, float], None] | None = None) -> dict[str, ad.AnnData]:
    """Draw all cells of the demo; the same world gives the same bytes.

    Parameters
    ----------
    progress
        Called with a message and the fraction done.

    Returns
    -------
    Data set name -> AnnData: ``X`` whole counts (float32 CSR), var index = gene symbols, ``uns["simulated"]`` is
    true. ``demo_cytokine_pbmc``: ``cell_type``, ``cytokine`` (control PBS), ``treatment``, ``donor``, ``sample``.
    ``demo_drug_pbmc``: ``cell_type``, ``sm_name`` (control Dimethyl Sulfoxide), ``SMILES``, ``donor_id``,
    ``plate_name``, ``control``; the DMSO wells of plate_2 hold other donors than its treated wells.
    ``demo_tissues``: ``cell_ontology_class``, ``cell_ontology_id``, ``tissue``, ``donor``, ``sex``.
    """
    plans = {CYTOKINE: _cytokine_plan(world), DRUG: _drug_plan(world), TISSUES: _tissue_plan()}
    made = {}
    for number, (dataset, plan) in enumerate(plans.items(), 1):
        made[dataset] = _draw(world, dataset, plan)
        if progress:
            progress(f"{dataset}: {made[dataset].n_obs} simulated cells", number / len(plans))
    return made


def labels_of(dataset: str) -> dict[str, str]:
    """Cell type label in the file -> CL id of the world's cell type it stands for."""
    if dataset == TISSUES:
        return {label: cl_id for _, label, cl_id, _ in facts.TISSUE_CELLS}
    labels = facts.CYTOKINE_LABELS if dataset == CYTOKINE else facts.DRUG_LABELS
    return {label: cl_id for label, (cl_id, _) in labels.items()}


def _draw(world: World, dataset: str, plan: Plan) -> ad.AnnData:
    with ThreadPoolExecutor(_N_THREADS) as pool:  # each sample has a generator of its own: order does not matter
        counts = sp.vstack(list(pool.map(lambda step: sample_counts(world, step[0]), plan)), format="csr")
    obs = pd.concat([cells for _, cells in plan], ignore_index=True)
    obs.index = pd.Index([f"{dataset}-{number:06d}" for number in range(len(obs))])
    obs = obs.astype({column: "category" for column in obs.columns if obs[column].dtype != bool})
    uns = {"simulated": True, "note": NOTE, "seed": world.seed, "demo_version": facts.DEMO_VERSION}
    return ad.AnnData(sp.csr_matrix(counts), obs=obs, var=pd.DataFrame(index=pd.Index(world.genes)), uns=uns)


def _cytokine_plan(world: World) -> Plan:
    donors = [f"Donor{number}" for number in range(1, facts.N_CYTOKINE_DONORS + 1)]
    plan = [_cytokine_sample(donor, None, label="PBS", factor=facts.PBS_FACTOR) for donor in donors]
    for programme in world.programmes.values():
        if programme.kind == "cytokine":
            rng = rng_of(world.seed, "donors", programme.label)
            treated = rng.permutation(facts.N_CYTOKINE_DONORS)[: facts.DONORS_PER_CYTOKINE]
            plan += [_cytokine_sample(donors[i], programme.name, label=programme.label) for i in sorted(treated)]
    return plan


def _cytokine_sample(
    donor: str, perturbation: str | None, *, label: str, factor: float = 1.0
) -> tuple[Sample, pd.DataFrame]:
    labels = {name: (cl_id, round(factor * n_cells)) for name, (cl_id, n_cells) in facts.CYTOKINE_LABELS.items()}
    columns = {
        "cytokine": label,
        "treatment": "PBS" if perturbation is None else "cytokine",
        "donor": donor,
        "sample": f"{donor}_{label}",
    }
    return _sample(CYTOKINE, donor, perturbation, labels=labels, columns=columns)


def _drug_plan(world: World) -> Plan:
    """Every third drug is on the confounded plate."""
    drugs = [programme for programme in world.programmes.values() if programme.kind == "drug"]
    plan: Plan = []
    for plate in (facts.MATCHED_PLATE, facts.CONFOUNDED_PLATE):
        for donor in facts.MATCHED_DONORS:  # no DMSO well anywhere holds cells of the third donor
            plan.append(_drug_sample(donor, None, label=facts.DMSO[0], plate=plate))
    for number, drug in enumerate(drugs):
        confounded = number % 3 == 2
        plate = facts.CONFOUNDED_PLATE if confounded else facts.MATCHED_PLATE
        donors = (facts.CONFOUNDED_DONOR,) if confounded else facts.MATCHED_DONORS
        plan += [_drug_sample(donor, drug.name, label=drug.label, plate=plate) for donor in donors]
    return plan


def _drug_sample(donor: str, perturbation: str | None, *, label: str, plate: str) -> tuple[Sample, pd.DataFrame]:
    factor = facts.DMSO_FACTOR if perturbation is None else 1.0
    labels = {name: (cl_id, round(factor * n_cells)) for name, (cl_id, n_cells) in facts.DRUG_LABELS.items()}
    columns = {
        "sm_name": label,
        "SMILES": facts.DMSO[1] if perturbation is None else facts.DRUGS[label],
        "donor_id": donor,
        "plate_name": plate,
        "control": perturbation is None,
    }
    return _sample(DRUG, donor, perturbation, labels=labels, columns=columns, batch=plate)


def _tissue_plan() -> Plan:
    plan: Plan = []
    for donor, sex in facts.TISSUE_DONORS.items():
        for tissue in dict.fromkeys(row[0] for row in facts.TISSUE_CELLS):
            labels = {label: (cl_id, n) for name, label, cl_id, n in facts.TISSUE_CELLS if name == tissue}
            columns = {"tissue": tissue, "donor": donor, "sex": sex}
            sample, obs = _sample(TISSUES, donor, None, labels=labels, columns=columns, batch=tissue)
            obs = obs.rename(columns={"cell_type": "cell_ontology_class"})
            obs["cell_ontology_id"] = [labels[label][0] for label in obs["cell_ontology_class"]]
            plan.append((sample, obs))
    return plan


def _sample(
    dataset: str,
    donor: str,
    perturbation: str | None,
    *,
    labels: dict[str, tuple[str, int]],
    columns: Mapping[str, object],
    batch: str = "",
) -> tuple[Sample, pd.DataFrame]:
    groups = tuple(Group(cl_id, n_cells) for cl_id, n_cells in labels.values())
    names = [name for name, (_, n_cells) in labels.items() for _ in range(n_cells)]
    return Sample(dataset, donor, perturbation, groups, batch), pd.DataFrame({"cell_type": names, **columns})
