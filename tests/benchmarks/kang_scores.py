"""What the score says about measured cells: IFN-beta on the public Kang 2018 subset, each cell type hidden in turn.

In: the h5ad, engines. Out: a Markdown table with one row per hidden type, engine and labelling: composite, components,
the three leading pathways. Labellings: ``right``; ``swapped`` (control cells labelled as treated, treated cells as
control); ``wrong`` (the IFN-beta cells labelled TNF-alpha, and TNF-alpha asked for). The last two must score low.
"""

import argparse
import itertools
import math
import tempfile
from pathlib import Path

import anndata as ad

from haystack_kernel import keys
from haystack_kernel.atlas import build_atlas, load_mapping
from haystack_kernel.config.settings import load_settings
from haystack_kernel.knowledge import load_knowledge
from haystack_kernel.run import open_run

MIN_CELLS = 20
LABELS = {
    "right": ("IFN-beta", {}),
    "swapped": ("IFN-beta", {"control": "IFN-beta", "IFN-beta": "control"}),
    "wrong": ("TNF-alpha", {"IFN-beta": "TNF-alpha"}),
}


def hidden_types(adata):
    """Cell types with at least MIN_CELLS cells in both arms and a CL id."""
    counts = adata.obs.groupby(["cell_type", "perturbation"], observed=True).size().unstack(fill_value=0)
    return [name for name in counts.index if counts.loc[name].min() >= MIN_CELLS and "unresolved" not in str(name)]


def make_atlas(adata, labels, *, folder):
    """Build an atlas of the cells under other labels; the settings returned know no other atlas."""
    renamed = adata.copy()
    old = adata.obs["perturbation"].astype(str)
    named = old.where(old == "control", "IFN-beta")
    renamed.obs["perturbation"] = named.map(lambda label: labels.get(label, label)).to_numpy(object)
    source = folder / "atlas.h5ad"
    renamed.write_h5ad(source)
    settings = load_settings(storage=str(folder), atlas_root=str(folder / "atlases"), cache=str(folder / "cache"))
    columns = {"perturbation_column": "perturbation", "control": ["control"], "perturbation_type": "cytokine"}
    mapping = load_mapping("cellxgene", ignore=["sample_id"], **columns)  # which contradicts swapped labels
    build_atlas(str(source), name="kang", root=settings.atlas_root, mapping=mapping, knowledge=load_knowledge())
    return settings


def ask(settings, name, *, treatment, engine):
    """Work one run up to its scores."""
    model = {"model": "demo"} if engine == "stack" else {}
    run = open_run(
        f"How would {name}s respond to {treatment}?",
        settings=settings,
        atlases=["kang"],
        hide=[f"{name}:{treatment}"],
        engine=engine,
        max_rounds=1,
        literature=False,
        **model,
    ).work(until="interpret")
    best = run.record.rounds[0]
    scores = {item.name: item.score for item in best.components}
    return best.composite.value, scores, run.pathways["pathway"].tolist()[:3], best.n_de


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("h5ad", help="e.g. kang2018_ifnb_public.h5ad")
    parser.add_argument("--engines", nargs="+", default=["shift", "weighted", "stack"], help="engines to run")
    parser.add_argument("--types", nargs="*", help="cell types to hide (default: all that have enough cells)")
    options = parser.parse_args()
    adata = ad.read_h5ad(options.h5ad)
    print("| hidden | engine | labels | composite | pathway | target | network | DE | leading pathways |")
    print("|---|---|---|---|---|---|---|---|---|")
    for labels, (treatment, mapping) in LABELS.items():
        with tempfile.TemporaryDirectory() as name:
            settings = make_atlas(adata, mapping, folder=Path(name))
            cell_types = options.types or hidden_types(adata)
            for cell_type, engine in itertools.product(map(str, cell_types), options.engines):
                value, scores, leading, n_de = ask(settings, cell_type, treatment=treatment, engine=engine)
                shown = [value, *(scores[name] for name in (keys.PATHWAY, keys.TARGET, keys.NETWORK))]
                cells = " | ".join("-" if math.isnan(one) else f"{one:.1f}" for one in shown)
                print(f"| {cell_type} | {engine} | {labels} | {cells} | {n_de} | {', '.join(leading)} |", flush=True)


if __name__ == "__main__":
    main()
