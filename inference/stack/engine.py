"""The model as an engine that predicts over the query cells' own genes.

In: a checkpoint, its gene list, prompt and query cells. Out: :class:`inference.baselines.Prediction`.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import sparse

from inference.baselines import Prediction
from inference.draw import TARGET_SUM
from inference.errors import EngineError, InputError
from inference.stack.asked import Asked, Generated
from inference.stack.batches import Limits, is_out_of_memory
from inference.stack.checkpoint import Checkpoint, check_genes, load_checkpoint
from inference.stack.generate import Generation, advance, count_windows
from inference.stack.genes import align, read_genes
from inference.stack.moments import expect_log
from inference.stack.ops import why_plain

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from inference.baselines import Cells
    from inference.stack.config import GenerationSettings, StackConfig
    from inference.stack.generate import Step
    from inference.stack.genes import Aligned
    from inference.stack.model import StackModel

_FIRST_BF16 = (8, 0)  # compute capability of the first GPUs that multiply bfloat16
_NATIVE_BF16 = ("amx_bf16", "avx512_bf16")  # what processors that multiply bfloat16 have, as torch names it
_ROUNDED = (  # as measured on the demo model, see docs/performance.md
    "on the demo model its genes' expected log1p(CP10k) lie within 0.07 of those in fp32; precision fp32 avoids that"
)
_LEAST_BF16 = 512  # numbers of a cell from which the products take most of a processor's time


@dataclass(frozen=True)
class Source:
    """A file of the model."""

    path: Path  # local
    name: str  # its name in messages: the address that the user gave
    sha256: str


@dataclass(frozen=True)
class _Begun:
    """A prediction on its way, over the model's genes."""

    query: Cells
    base: Aligned
    test: Aligned
    generation: Generation

    @property
    def step(self) -> Step:
        """Its last step; raises the reason where there is none."""
        if self.generation.error is not None or self.generation.step is None:
            raise self.generation.error or EngineError("the model made no step")
        return self.generation.step

    @property
    def shown(self) -> NDArray[np.bool_]:
        """Per predicted gene, whether the prompt has it."""
        return np.isin(self.test.model, self.base.model)


@dataclass(frozen=True)
class StackEngine:
    """A loaded model with its settings; called like every other engine."""

    checkpoint: Checkpoint
    genes: dict[str, int]  # upper-cased name -> the model's column
    settings: GenerationSettings
    digests: dict[str, str]  # of model and gene list
    limits: Limits
    progress: Callable[[str], None] | None = None
    kernels: str = ""  # what computes, and why nothing faster does

    def __call__(self, *, prompt: Cells, control: Cells | None, query: Cells, seed: int) -> Prediction:
        """Rewrite the query cells as the prompt cells show; ``control`` is not used.

        Returns
        -------
        Counts over the query cells' genes in their order. Genes that the model lacks keep their counts. ``changeable``
        is False for them, and for genes that the prompt lacks, which the model saw as zeros.

        Raises
        ------
        InputError
            A role has no cells, or none of its genes is in the model.
        ModelError
            The model returned values that are not finite.
        EngineError
            The memory of the device does not hold one window.
        """
        return self.predict_together([Asked(prompt, query, seed)])[0]()

    def generate(self, asked: Asked) -> Generated:
        """Rewrite the query cells as a call does, and compute no expectations, which take longer than the drawing."""
        found = self._generate_all([asked])[0]
        if isinstance(found, Exception):
            raise found
        return self._gather(found)

    def predict_together(self, asked: Sequence[Asked]) -> list[Callable[[], Prediction]]:
        """Generate for several predictions in common batches.

        Returns
        -------
        For each a function that puts its prediction together, or raises its error. It may be called once, in another
        thread too; until then it holds the generated cells.
        """
        return [partial(self._finish, item) for item in self._generate_all(asked)]

    def count_windows(self, n_query: int) -> int:
        """Windows that a prediction of so many query cells needs in one step."""
        return count_windows(self.checkpoint.model.config.n_cells, n_query, settings=self.settings)

    def _begin_all(self, asked: Sequence[Asked]) -> list[_Begun | Exception]:
        """Begin the predictions, or the first of them where the memory does not hold so many at once."""
        found: list[_Begun | Exception] = []
        for one in asked:
            try:
                found.append(self._begin(one))
            except (InputError, EngineError, MemoryError, RuntimeError) as error:
                is_full = isinstance(error, EngineError) or is_out_of_memory(error)
                if is_full and any(isinstance(item, _Begun) for item in found):
                    break
                found.append(error)
        return found

    def _begin(self, asked: Asked) -> _Begun:
        prompt, query = asked.prompt, asked.query
        base = align(prompt.counts, prompt.genes, model_genes=self.genes, role="prompt")
        test = align(query.counts, query.genes, model_genes=self.genes, role="query")
        generation = Generation(
            self.checkpoint.model,
            prompt=base.counts,
            query=test.counts.toarray(),
            settings=self.settings,
            seed=asked.seed,
            limits=self.limits,
        )
        return _Begun(query, base, test, generation)

    def _generate_all(self, asked: Sequence[Asked]) -> list[_Begun | Exception]:
        """Generate, in as many goes as the memory needs."""
        found = self._begin_all(asked)
        begun = [item for item in found if isinstance(item, _Begun)]
        try:
            self._generate(begun)
        except EngineError as error:
            found = [error if isinstance(item, _Begun) else item for item in found]
        return found if len(found) == len(asked) else [*found, *self._generate_all(asked[len(found) :])]

    def _generate(self, begun: Sequence[_Begun]) -> None:
        generations = [item.generation for item in begun]
        for number in advance(generations, settings=self.settings, limits=self.limits):
            steps = [one.step for one in generations if one.step is not None and one.step.number == number]
            if self.progress is not None and steps:
                n_rewritten = sum(int((~step.is_kept).sum()) for step in steps)
                n_cells = sum(step.is_kept.size for step in steps)
                self.progress(
                    f"step {number} of {self.settings.diffusion_steps}: {n_rewritten} of {n_cells} cells rewritten"
                )

    def _finish(self, begun: _Begun | Exception) -> Prediction:
        if isinstance(begun, Exception):
            raise begun
        found, test, query = self._gather(begun), begun.test, begun.query
        expected = query.counts.toarray().astype(np.float32)
        expected[:, test.own] = begun.step.expected[:, test.model]
        expected_log = _expected_log(begun.step, test, expected)
        begun.generation.release()
        return Prediction(
            counts=found.counts,
            expected_log=expected_log,
            changeable=found.changeable,
            notes=found.notes,
            expected=expected,
            logits=found.logits,
            record=found.record,
        )

    def _gather(self, begun: _Begun) -> Generated:
        """Put the generated genes and the query cells' other genes together, in the order of the query cells."""
        base, test, query, step = begun.base, begun.test, begun.query, begun.step
        generated = sparse.csr_matrix(step.counts[:, test.model])
        others = np.setdiff1d(np.arange(len(query.genes)), test.own)
        joined = sparse.hstack([generated, query.counts[:, others]], format="csc", dtype=np.float32)
        counts = joined[:, np.argsort(np.concatenate([test.own, others]))].tocsr()
        counts.eliminate_zeros()
        counts.sort_indices()
        changeable = np.zeros(len(query.genes), dtype=bool)
        changeable[test.own[begun.shown]] = True
        model = self.checkpoint.model
        record = {
            **self.digests,
            "citation": self.checkpoint.citation,
            "licence": self.checkpoint.licence,
            "config": asdict(model.config),
            "settings": asdict(self.settings),
            "device": str(model.device),
            "kernels": self.kernels,
            "precision": model.precision,
            "frac_query_genes_in_model": test.own.size / len(query.genes),
            "frac_model_genes_in_query": test.model.size / len(self.genes),
            "frac_model_genes_in_prompt": base.model.size / len(self.genes),
        }
        notes = (*self.checkpoint.notes, *self._notes(base, test, query, n_hidden=int((~begun.shown).sum())))
        return Generated(counts, changeable, step.logits, notes, {"model": record})

    @property
    def computed(self) -> str:
        """Where and with what it computes, for the notes of every result."""
        model = self.checkpoint.model
        rounded = f" ({_ROUNDED})" if model.precision == "bf16" else ""
        return f"computed on {model.device} in {model.precision}{rounded}, kernels: {self.kernels}"

    @property
    def slower(self) -> list[str]:
        """What made it slower than it could be."""
        replayed = self.checkpoint.model.replayed
        return [*self.limits.notes, *([replayed.note] if replayed and replayed.note else [])]

    def _notes(self, base: Aligned, test: Aligned, query: Cells, *, n_hidden: int) -> list[str]:
        n_model, n_query = len(self.genes), len(query.genes)
        coverage = (
            f"of the model's {n_model} genes the query has {test.model.size} ({test.model.size / n_model:.0%}), the "
            f"prompt {base.model.size} ({base.model.size / n_model:.0%})"
        )
        notes = [coverage]
        notes += [self.computed, *self.slower]
        if n_lost := n_query - test.own.size:
            notes.append(f"{n_lost} of the query's {n_query} genes are unknown to the model and keep their counts")
        if n_hidden:
            notes.append(
                f"{n_hidden} of the predicted genes are missing in the prompt: padded, no change in them counts"
            )
        return notes


def load_engine(
    model: Source,
    genelist: Source,
    *,
    settings: GenerationSettings,
    device: str,
    threads: int | None,
    precision: str = "auto",
    progress: Callable[[str], None] | None = None,
) -> StackEngine:
    """Read a model and its gene list.

    Parameters
    ----------
    model, genelist
        The two files.
    settings
        Settings of the generation.
    device
        ``auto`` (a GPU if there is one), ``cpu``, ``cuda`` or ``cuda:<number>``.
    threads
        Processor threads of torch; None leaves the choice to torch.
    precision
        ``fp32``, ``bf16`` (weights and inputs of the large layers rounded to bfloat16), or ``auto``: ``bf16`` on a GPU
        that multiplies it, and on a processor that does for all but small models, otherwise ``fp32``.
    progress
        Receives a line for each step.

    Raises
    ------
    ModelError
        One of the files cannot be used, or they do not belong together.
    EngineError
        The device or the precision is not available.
    """
    chosen = _find_device(device)
    is_exact = settings.output_mode == "exact"
    if precision == "bf16" and is_exact:
        msg = "output mode exact follows the reference to the last bit, in fp32: choose precision fp32 or auto"
        raise EngineError(msg)
    choose = partial(_find_precision, precision, device=chosen, is_exact=is_exact)
    if threads is not None:
        torch.set_num_threads(threads)
    genes = read_genes(genelist.path, name=genelist.name)
    checkpoint = load_checkpoint(model.path, name=model.name, device=chosen, choose_precision=choose)
    check_genes(
        genes,
        n_genes=checkpoint.model.config.n_genes,
        genes_sha256=checkpoint.genes_sha256,
        name=genelist.name,
        model=model.name,
    )
    kernels = _name_kernels(checkpoint.model, is_exact=is_exact)
    if progress is not None:
        progress(f"model on {chosen} in {checkpoint.model.precision}, kernels: {kernels}")
    warn_of_faults(checkpoint.model)
    return StackEngine(
        checkpoint,
        {gene: index for index, gene in enumerate(genes)},
        settings,
        {"sha256": model.sha256, "genelist_sha256": genelist.sha256},
        Limits.of(chosen, settings),
        progress,
        kernels,
    )


def warn_of_faults(model: StackModel) -> None:
    """Warn where kernels made for a GPU cannot be used on it; the notes of every result say so, too."""
    reasons = list(model.ops.faults)
    if model.device.type == "cuda" and (slow := why_plain(model.device)):
        reasons.append(slow)
    if reasons:
        msg = f"the model runs on {model.device} more slowly than it could: {'; '.join(reasons)}"
        warnings.warn(msg, RuntimeWarning, stacklevel=2)


def _name_kernels(model: StackModel, *, is_exact: bool) -> str:
    """What computes, and why nothing faster does."""
    name = "reference" if is_exact else model.ops.name
    slow = None if is_exact else why_plain(model.device)
    reasons = [f"several times slower than those made for it, because {slow}"] if slow else []
    if model.device.type == "cpu" and torch.version.cuda and not torch.cuda.is_available():
        reasons.append(f"this torch was built for CUDA {torch.version.cuda} and sees no GPU")
    return "; ".join([name, *reasons])


def _find_device(device: str) -> torch.device:
    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        return torch.device("cuda" if n_gpus else "cpu")
    number = re.fullmatch(r"cuda(?::(\d+))?", device)
    if number and int(number.group(1) or 0) >= n_gpus:
        kind = f"CUDA {torch.version.cuda}" if torch.version.cuda else "the processor alone"
        msg = (
            f"device {device!r} is not available: torch sees {n_gpus} GPUs and was built for {kind}; choose cpu or "
            "auto, or a machine with a GPU and its driver"
        )
        raise EngineError(msg)
    return torch.device(device)


def _find_precision(precision: str, config: StackConfig, *, device: torch.device, is_exact: bool) -> str:
    if precision != "auto":
        return precision
    if device.type == "cuda":
        is_faster = torch.cuda.get_device_capability(device) >= _FIRST_BF16
    else:
        has: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # which older releases lack
        is_faster = config.cell_dim >= _LEAST_BF16 and any(has.get(name) for name in _NATIVE_BF16)
    return "bf16" if is_faster and not is_exact else "fp32"


def _expected_log(step: Step, test: Aligned, expected: NDArray[np.float32]) -> NDArray[np.float64]:
    """Expected mean log1p(CP10k) per gene over all possible draws, or of the means where no counts are drawn."""
    library = expected.sum(axis=1, dtype=np.float64, keepdims=True)
    scale = np.divide(TARGET_SUM, library, out=np.zeros_like(library), where=library > 0)
    found = np.log1p(expected * scale).mean(axis=0)
    dispersion = step.dispersion
    if dispersion is not None:
        mean = expected[:, test.own]
        found[test.own] = expect_log(mean, dispersion[:, test.model], scale=scale.astype(np.float32)).mean(axis=0)
    return np.asarray(found)
