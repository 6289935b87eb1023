"""How near each engine comes to a measured response that it could not see.

In: an h5ad of control and IFN-beta cells with CL ids (the public Kang 2018 subset). Out: a Markdown table of Pearson
correlations of the mean log-shift over all genes, engine x hidden cell type.

For each cell type, half of its controls (by donor) are taken out of the file as truth controls; the rest become an
atlas, the pair (cell type, IFN-beta) is hidden, and the question is worked until its predictions are there. Truth =
all measured IFN-beta cells of the type minus the truth controls; prediction = predicted cells minus query cells, so
no cell stands on both sides. The ceiling is the same correlation between two halves of the truth.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import anndata as ad
import numpy as np

from haystack_kernel.atlas import build_atlas, load_mapping
from haystack_kernel.config.settings import load_settings
from haystack_kernel.knowledge import load_knowledge
from haystack_kernel.run import open_run
from inference.baselines import BASELINES
from inference.draw import log_normalise

PERTURBATION = "IFN-beta"
MIN_CELLS = 20


def mean_profile(adata):
    """Mean log1p(CP10k) per gene."""
    return np.asarray(log_normalise(adata.X.tocsr().astype(np.float32)).mean(axis=0)).ravel()


def halves(labels, *, rng):
    """Boolean mask of about half the cells of every label."""
    mask = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        mask[rng.permutation(rows)[: len(rows) // 2]] = True
    return mask


def hidden_types(adata):
    """Cell types with at least MIN_CELLS cells in both arms and a CL id."""
    counts = adata.obs.groupby(["cell_type", "perturbation"], observed=True).size().unstack(fill_value=0)
    return [name for name in counts.index if counts.loc[name].min() >= MIN_CELLS and "unresolved" not in str(name)]


def predict_hidden(adata, name, *, rng, folder, seed):
    """Correlations of every engine with the hidden truth of one cell type, and the split-half ceiling."""
    of_type = (adata.obs["cell_type"] == name).to_numpy()
    is_control = (adata.obs["perturbation"] == "control").to_numpy()
    controls = np.flatnonzero(of_type & is_control)
    held_out = controls[halves(adata.obs["donor_id"].to_numpy()[controls], rng=rng)]
    truth_cells = adata[of_type & ~is_control]
    truth = mean_profile(truth_cells) - mean_profile(adata[held_out])
    keep = np.ones(adata.n_obs, dtype=bool)
    keep[held_out] = False
    source = folder / "atlas.h5ad"
    adata[keep].write_h5ad(source)
    settings = load_settings(storage=str(folder), atlas_root=str(folder / "atlases"), cache=str(folder / "cache"))
    columns = {"perturbation_column": "perturbation", "control": ["control"], "perturbation_type": "cytokine"}
    mapping = load_mapping("cellxgene", **columns)
    build_atlas(str(source), name="hidden", root=settings.atlas_root, mapping=mapping, knowledge=load_knowledge())
    run = open_run(
        f"How would {name}s respond to interferon beta?",
        settings=settings,
        atlases=["hidden"],
        hide=[f"{name}:{PERTURBATION}"],
        engine="weighted",
        seed=seed,
    ).work(until="ground")
    outputs = Path(run.folder) / "rounds" / "1"
    query = mean_profile(ad.read_h5ad(outputs / "query.h5ad"))
    row = {
        "cell type": name,
        "n stim": truth_cells.n_obs,
        "n truth control": len(held_out),
        "n query": run.record.rounds[0].n_query,
    }
    for engine in BASELINES:
        task = "treated" if engine == "weighted" else f"baseline-{engine}"
        shift = mean_profile(ad.read_h5ad(outputs / "outputs" / f"{task}.h5ad")) - query
        row[engine] = float(np.corrcoef(shift, truth)[0, 1]) if shift.any() else float("nan")
    first = halves(truth_cells.obs["donor_id"].to_numpy(), rng=rng)
    rest = controls[~np.isin(controls, held_out)]
    one = mean_profile(truth_cells[first]) - mean_profile(adata[held_out])
    other = mean_profile(truth_cells[~first]) - mean_profile(adata[rest])
    row["split halves"] = float(np.corrcoef(one, other)[0, 1])
    return row


def main():
    """Print the table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("h5ad", help="e.g. kang2018_ifnb_public.h5ad")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    adata = ad.read_h5ad(options.h5ad)
    rng = np.random.default_rng(options.seed)
    rows = []
    for name in hidden_types(adata):
        with tempfile.TemporaryDirectory() as folder:
            rows.append(predict_hidden(adata, str(name), rng=rng, folder=Path(folder), seed=options.seed))
        sys.stderr.write(json.dumps(rows[-1]) + "\n")
    average = {key: float(np.mean([row[key] for row in rows])) for key in (*BASELINES, "split halves")}
    columns = list(rows[0])
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for row in [*rows, {"cell type": "average", **average}]:
        cells = [row.get(name, "") for name in columns]
        lines.append(f"| {' | '.join(f'{cell:.3f}' if isinstance(cell, float) else str(cell) for cell in cells)} |")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
