"""The methods paragraph and the citations of a report.

In: a run record. Out: text; every number in it comes from the record.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from haystack_kernel.schema import RunRecord

_ENGINES = {
    "none": "no change (the query cells as they are)",
    "mean": "the mean response over the prompt's cell types, applied to the query cells",
    "shift": "the shift between prompt and matched control cells, applied to the query cells",
    "weighted": (
        "the shifts of several cell types between prompt and matched control cells, weighted by the similarity of "
        "their control profile to the query cells and by their number of cells"
    ),
}
_SIMULATED = "demo"

BIBTEX = """\
@article{scanpy2018, author = {Wolf, F. Alexander and Angerer, Philipp and Theis, Fabian J.},
  title = {SCANPY: large-scale single-cell gene expression data analysis},
  journal = {Genome Biology}, volume = {19}, pages = {15}, year = {2018}, doi = {10.1186/s13059-017-1382-0}}
@article{anndata2024, author = {Virshup, Isaac and Rybakov, Sergei and Theis, Fabian J. and Angerer, Philipp
  and Wolf, F. Alexander}, title = {anndata: Access and store annotated data matrices},
  journal = {Journal of Open Source Software}, volume = {9}, pages = {4371}, year = {2024}, doi = {10.21105/joss.04371}}
@article{umap2018, author = {McInnes, Leland and Healy, John and Saul, Nathaniel and Grossberger, Lukas},
  title = {UMAP: Uniform Manifold Approximation and Projection}, journal = {Journal of Open Source Software},
  volume = {3}, pages = {861}, year = {2018}, doi = {10.21105/joss.00861}}
@article{bh1995, author = {Benjamini, Yoav and Hochberg, Yosef}, title = {Controlling the False Discovery Rate},
  journal = {Journal of the Royal Statistical Society B}, volume = {57}, pages = {289--300}, year = {1995},
  doi = {10.1111/j.2517-6161.1995.tb02031.x}}
@article{cl2016, author = {Diehl, Alexander D. and others},
  title = {The Cell Ontology 2016: enhanced content, modularization, and ontology interoperability},
  journal = {Journal of Biomedical Semantics}, volume = {7}, pages = {44}, year = {2016},
  doi = {10.1186/s13326-016-0088-7}}
"""


def methods_paragraph(record: RunRecord) -> str:
    """What was done, in sentences that a methods section can take over."""
    best, versions = record.best, record.versions
    if best is None:
        return "No round has been finished."
    donors = "same donors" if all(item.donor_matched for item in best.candidates) else "donors not matched"
    matched = f"same dataset and cell type, {donors}"
    planner = record.query.planner if record.query else "offline"
    program = f"HAYSTACK {versions.get('haystack-kernel', '')}".strip()
    reading = best.control_strategy.replace("_", " ")
    sentences = [
        f"The question was parsed by the {planner} planner ({program}).",
        f"It was answered from the atlas(es) {', '.join(record.config.atlases)}.",
        f"{best.n_prompt} prompt cells and {best.n_control} matched control cells were used ({matched}).",
        f"{best.n_query} query cells were transformed.",
    ]
    sentences += [
        f"Engine '{record.config.engine}' predicted {_ENGINES[record.config.engine]}; seed {record.config.seed}.",
        "No weights of STACK were used.",
        f"The prediction was read by '{reading}'.",
        "Counts were normalised to 10,000 per cell and log1p-transformed.",
        "Genes were tested by the two-sided Wilcoxon rank-sum test, adjusted by Benjamini-Hochberg over tested genes.",
        "Components of the score are mean signed z statistics.",
        "They were held against donor-stratified permutations of the prompt labels and against matched gene decoys.",
        f"{len(record.rounds)} round(s) were worked; round {best.number} is reported.",
    ]
    if _SIMULATED in record.config.atlases:
        sentences.append("The atlas 'demo' is simulated: its cells were never measured.")
    sentences.append("Versions: " + ", ".join(f"{name} {value}" for name, value in versions.items()) + ".")
    return " ".join(sentences)
