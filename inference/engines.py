"""The engines of this program.

In: the name of an engine, and the job's manifest for the engine that needs a model. Out: a function that predicts.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields
from functools import cached_property, partial
from importlib.metadata import version
from importlib.util import find_spec
from threading import Lock
from typing import TYPE_CHECKING

from inference.apart import Order
from inference.baselines import BASELINES, predict
from inference.errors import EngineError, ModelError
from inference.files import local_copy, remembered_sha256
from inference.foreign import predict as predict_foreign
from inference.imports import load_modules
from inference.installed import find_installed, installed_engines
from inference.manifest import ADDITIVE, EMBED, ENGINES, GENERATE, MODEL_ENGINE, MODEL_PACKAGES
from inference.memory import peak_memory_gib
from inference.models import packaged
from inference.stack.config import GenerationSettings
from inference.stack.genes import has_gene, read_genes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from inference.apart import Apart
    from inference.baselines import Cells, Prediction
    from inference.installed import Installed
    from inference.manifest import Manifest
    from inference.stack.asked import Asked, Generated
    from inference.stack.embed import Embedding
    from inference.stack.engine import StackEngine

_ROLES = _MODEL, _GENES = "model", "gene list"


def require_packages() -> None:
    """Raise :class:`EngineError` where the model's runtime is not installed."""
    for package in MODEL_PACKAGES:
        if find_spec(package) is None:
            msg = (
                f"engine {MODEL_ENGINE!r} needs the package {package}, which is not installed: "
                f"pip install 'haystack-kernel[stack]', or choose another engine: {', '.join(BASELINES)}"
            )
            raise EngineError(msg)


def require_installed(name: str) -> Installed:
    """The engine of another package; raises :class:`EngineError` where none of that name can be used."""
    found = find_installed(name)
    if found is None:
        there = installed_engines()
        usable = [one.name for one in there.values() if not one.fault]
        why = f"engine {name!r} cannot be used: {there[name].fault}" if name in there else f"engine {name!r} is unknown"
        msg = (
            f"{why}; possible: {', '.join((*ENGINES, *usable))}. Choose one with --engine, or install its package "
            "where this program runs: for a job of the cloud in the image that batch.engine_images names for it"
        )
        raise EngineError(msg)
    return found


class Engines:
    """The engines of one job; the model is read once, when a task first needs it.

    Parameters
    ----------
    manifest
        The job.
    folder
        Local scratch space.
    progress
        Receives a line for each step of the model.
    files
        Role -> local file of the model and its digest, where they are known already.
    apart
        A process that generates; None: this one.
    """

    def __init__(
        self,
        manifest: Manifest,
        *,
        folder: Path,
        progress: Callable[[str], None] | None = None,
        files: Mapping[str, tuple[Path, str]] | None = None,
        apart: Apart | None = None,
    ) -> None:
        self._manifest = manifest
        self._folder = folder
        self._progress = progress
        self._apart = apart
        self._loading = Lock()
        own = packaged(manifest.model)
        self._paths: dict[str, Path] = dict(zip(_ROLES, own, strict=True)) if own else {}
        self._paths |= {role: path for role, (path, _) in (files or {}).items()}
        self._digests = {role: digest for role, (_, digest) in (files or {}).items()}

    def find(self, name: str) -> Callable[..., Prediction]:
        """Return ``predict(*, prompt, control, query, seed)`` of an engine; some also take ``others``.

        Raises
        ------
        EngineError
            There is no such engine.
        ModelError, StorageError
            The model cannot be read.
        """
        if name in (*BASELINES, ADDITIVE):
            return partial(predict, name)
        if name == MODEL_ENGINE:
            return self.model
        return partial(predict_foreign, require_installed(name), limit_s=self._manifest.engine_limit_s)

    @property
    def model(self) -> StackEngine:
        """The loaded model, for more than predictions; raises as :meth:`find` does."""
        with self._loading:  # the thread that reads ahead asks for it, too
            return self._stack

    def generate(self, asked: Asked) -> Generated:
        """Generate with the model, in the process that was given for it; raises as :meth:`find` does."""
        if self._apart is None:
            return self.model.generate(asked)
        return self._apart.generate(asked, order=self._order)

    def predict(self, asked: Sequence[Asked]) -> list[Callable[[], Prediction]]:
        """Predict with the model as :meth:`StackEngine.predict_together` does; in the process that was given for it."""
        if self._apart is None:
            return self.model.predict_together(asked)
        found = [self._apart.predict(one, order=self._order) for one in asked]
        return [partial(_return, one) for one in found]

    @property
    def _order(self) -> Order:
        uris = zip((self._manifest.model, self._manifest.genelist), _ROLES, strict=True)
        files = {role: (self._path(uri, role), self._digest(uri, role)) for uri, role in uris}
        return Order(self._manifest, files, self._folder, is_told=self._progress is not None)

    @property
    def peak_memory_gib(self) -> float:
        """The most memory that this process and the model's have used; not necessarily at one time."""
        return peak_memory_gib() + (self._apart.peak_gib if self._apart else 0.0)

    def close(self) -> None:
        """Nothing more will be generated: the memory of a model in another process is let go of at once."""
        if self._apart is not None:
            self._apart.close()

    def n_together(self, name: str) -> int:
        """Windows that an engine computes at once; 1 where it takes the tasks one by one, as on a processor."""
        if name != MODEL_ENGINE or self._manifest.device == "cpu":
            return 1
        return self.model.limits.windows.size

    def embed(self, query: Cells) -> Embedding:
        """Compute the model's vectors of cells; raises as :meth:`find` does."""
        require_packages()
        from inference.stack.embed import embed_query

        return embed_query(self.model, query)

    def known_genes(self, name: str, genes: Sequence[str]) -> NDArray[np.bool_] | None:
        """Whether the model has each gene; None for an engine without a model."""
        return has_gene(genes, model_genes=self._genes) if name == MODEL_ENGINE else None

    @cached_property
    def _genes(self) -> frozenset[str]:
        """The model's genes, upper-cased."""
        if self._apart is None:
            return frozenset(self.model.genes)
        uri = self._manifest.genelist
        path = self._path(uri, _GENES)
        return frozenset(read_genes(path, name=uri or path.name))

    def digests(self, name: str, *, kind: str = GENERATE) -> dict[str, str]:
        """Sha256 of the model files that an engine reads, and of the settings that change its output."""
        if name not in ENGINES:
            return {"engine": require_installed(name).digest}
        if name != MODEL_ENGINE:
            return {}
        settings = {"precision": self._manifest.precision, "kind": kind}
        if kind != EMBED:
            settings |= {field.name: getattr(self._settings, field.name) for field in fields(GenerationSettings)}
            if self._settings.output_mode != "exact":
                del settings["batch_size"]  # only the random stream of the reference depends on it
        text = json.dumps(settings, sort_keys=True)
        return {
            "model": self._digest(self._manifest.model, _MODEL),
            "genelist": self._digest(self._manifest.genelist, _GENES),
            "settings": hashlib.sha256(text.encode()).hexdigest(),
        }

    def versions(self, name: str) -> dict[str, str]:
        """Versions of the packages that only this engine uses."""
        if name not in ENGINES:
            found = require_installed(name)
            return {found.package: found.version}
        return {package: version(package) for package in MODEL_PACKAGES} if name == MODEL_ENGINE else {}

    @property
    def _settings(self) -> GenerationSettings:
        return GenerationSettings(
            **{item.name: getattr(self._manifest, item.name) for item in fields(GenerationSettings)}
        )

    @cached_property
    def _stack(self) -> StackEngine:
        require_packages()
        load_modules(["inference.stack.engine"])
        from inference.stack.engine import Source, load_engine

        sources = []
        for uri, role in zip((self._manifest.model, self._manifest.genelist), _ROLES, strict=True):
            path = self._path(uri, role)
            sources.append(Source(path, uri or path.name, self._digest(uri, role)))
        return load_engine(
            *sources,
            settings=self._settings,
            device=self._manifest.device,
            threads=self._manifest.threads,
            precision=self._manifest.precision,
            progress=self._progress,
        )

    def _digest(self, uri: str | None, role: str) -> str:
        if role not in self._digests:
            self._digests[role] = remembered_sha256(self._path(uri, role))
        return self._digests[role]

    def _path(self, uri: str | None, role: str) -> Path:
        """Local copy of a file of the model, made once."""
        if role not in self._paths:
            if uri is None:
                msg = f"engine {MODEL_ENGINE!r} needs a {role}: give --model-gcs and --genelist-gcs"
                raise ModelError(msg)
            try:
                self._paths[role] = local_copy(uri, folder=self._folder)
            except FileNotFoundError as error:
                msg = f"{uri}: no such file; give the path or gs:// address of the {role}"
                raise ModelError(msg) from error
        return self._paths[role]


def _return(made: Prediction) -> Prediction:
    return made
