"""The methods paragraph and the citations of a report.

In: a run record. Out: text in which every number comes from the record.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from haystack_kernel.jobs import in_usd
from haystack_kernel.report.literature import plain
from haystack_kernel.report.words import CONTROLS, counted, simulated_atlases

if TYPE_CHECKING:
    from haystack_kernel.schema import Round, RunRecord, SpendingKind

_WORK: dict[SpendingKind, str] = {
    "inference": "The predictions",
    "orchestrator": "The orchestrator",
    "planner": "The planner",
}
_ENGINES = {
    "none": "no change (the query cells as measured)",
    "mean": "the mean response over the prompt's cell types, applied to the query cells",
    "shift": "the shift between prompt and control cells of the same type, applied to the query cells",
    "weighted": (
        "the shifts of several cell types between prompt and matched control cells, weighted by the similarity of "
        "their control profile to the query cells and by their number of cells, and shrunk by their standard errors"
    ),
    "additive": (
        "as the engine weighted does, with what the cells show under other treatments of the same data set where that "
        "predicts those treatments better"
    ),
    "stack": "the query cells in the context of the prompt cells, by in-context generation with the model STACK",
}

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
@software{fastumap, author = {Cardona, Jorge}, title = {fastumap: UMAP with precompiled kernels},
  url = {https://gitlab.com/cardona-oss/fastumap}, year = {2026}}
@article{bh1995, author = {Benjamini, Yoav and Hochberg, Yosef}, title = {Controlling the False Discovery Rate},
  journal = {Journal of the Royal Statistical Society B}, volume = {57}, pages = {289--300}, year = {1995},
  doi = {10.1111/j.2517-6161.1995.tb02031.x}}
@article{cl2016, author = {Diehl, Alexander D. and others},
  title = {The Cell Ontology 2016: enhanced content, modularization, and ontology interoperability},
  journal = {Journal of Biomedical Semantics}, volume = {7}, pages = {44}, year = {2016},
  doi = {10.1186/s13326-016-0088-7}}
"""


def methods_paragraph(record: RunRecord) -> str:
    """Return what was done, in sentences that can be used in a methods section."""
    best = record.best
    if best is None:
        return "No round has been scored yet, so there are no methods to describe."
    config = record.config
    weights = "No STACK weights were used."
    how = _ENGINES.get(config.engine, "the query cells by code of its own, which is not part of HAYSTACK")
    if best.model is not None and best.model.name:
        weights = f"The engine is {best.model.name} ({best.model.licence}; cite {best.model.citation})."
    elif best.model is not None:
        steps = counted(config.diffusion_steps, "step")
        terms = f"weights: SHA-256 {best.model.sha256[:12]}, {best.model.licence}; cite {best.model.citation}"
        weights = f"Generation took {steps} ({terms})."
    sentences = [
        *_data(record, best),
        f"Engine '{config.engine}' predicted {how} (seed {config.seed}).",
        weights,
        *([f"{pick.words[0].upper()}{pick.words[1:]}."] if (pick := record.engine_pick) else []),
        f"The prediction was compared with {CONTROLS[best.control_strategy]}.",
        *_statistics(record, best),
        *_jobs(record),
    ]
    versions = ", ".join(f"{name} {value}" for name, value in record.versions.items())
    if versions:
        sentences.append(f"Versions: {versions}.")
    digests = ", ".join(f"{name} {value[:12]}" for name, value in record.digests.items())
    if digests:
        sentences.append(f"SHA-256 of the data, first 12 digits: {digests}.")
    return " ".join(sentences)


def run_entry(record: RunRecord) -> str:
    """Return the BibTeX entry of the run itself: its question, its date, and what predicted."""
    version = record.versions.get("haystack-kernel", "")
    atlases = ", ".join(record.config.atlases)
    weights = record.best.model.citation if record.best and record.best.model else ""
    note = f"HAYSTACK {version}, engine {record.config.engine}, atlases {atlases}, seed {record.config.seed}"
    fields = {
        "title": f"Predicted: {record.question}",
        "year": f"{record.created_at:%Y}",
        "month": f"{record.created_at:%b}".lower(),
        "howpublished": f"HAYSTACK run {record.run_id}",
        "note": f"{note}; {weights}" if weights else note,
    }
    told = ",\n  ".join(f"{name} = {{{plain(value)}}}" for name, value in fields.items())
    return f"@misc{{{record.run_id},\n  {told}}}\n"


def _data(record: RunRecord, best: Round) -> list[str]:
    planner = record.query.planner if record.query else "offline"
    atlases = ", ".join(record.config.atlases)
    simulated = simulated_atlases(record)
    note = [f"Atlas '{name}' is simulated: its cells were not measured." for name in simulated]
    if best.n_control:
        donors = "same donors" if all(item.donor_matched for item in best.candidates) else "donors not matched"
        control = f"{best.n_control:,} matched control cells (same dataset and cell types, {donors})"
    else:
        control = "no matched control cells"
    return [
        f"The question was parsed by the {planner} planner; cells were retrieved from atlas {atlases}.",
        *note,
        f"{best.n_prompt:,} prompt cells and {control} were used to transform {best.n_query:,} query cells.",
    ]


def _statistics(record: RunRecord, best: Round) -> list[str]:
    draws = max((int(item.detail.get("n_draws", 0)) for item in best.components), default=0)
    nulls = f" ({draws:,} draws each)" if draws else ""
    rounds = f"{counted(len(record.rounds), 'round')} {'was' if len(record.rounds) == 1 else 'were'} run"
    return [
        "Counts were normalised to 10,000 per cell and log1p-transformed.",
        "Genes were tested with the two-sided Wilcoxon rank-sum test.",
        "p values were adjusted by the method of Benjamini and Hochberg over the tested genes.",
        "The components of the score are mean signed z statistics.",
        "Their self-contained null permutes the prompt labels within donors.",
        f"Their competitive null draws matched gene sets from the same prediction{nulls}.",
        f"{rounds}; round {best.number} is reported.",
    ]


def _jobs(record: RunRecord) -> list[str]:
    """Return what cloud jobs cost at list prices, a sentence per kind; nothing when all jobs ran on this machine."""
    said = []
    for kind, usd in record.cost_by_kind.items():
        bills = [bill for bill in record.all_bills if bill.kind == kind]
        if kind == "planner":
            models = ", ".join(sorted({bill.machine for bill in bills}))
            n_asked = sum(bill.attempt for bill in bills)
            said.append(f"The planner asked {models} {counted(n_asked, 'time')}, about {in_usd(usd)} at list prices.")
            continue
        machines = ", ".join(sorted({bill.machine for bill in bills}))
        minutes = sum(bill.seconds * bill.n_machines for bill in bills) / 60
        jobs = f"{_WORK[kind]} took {counted(len(bills), 'cloud job')} on {machines}"
        said.append(f"{jobs}: {minutes:.1f} machine minutes, about {in_usd(usd)} at list prices.")
    return said
