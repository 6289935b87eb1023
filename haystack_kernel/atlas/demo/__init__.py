"""The demo atlas: simulated cells in the form of three real data sets, so that the first question needs no download.

In: the folder of all atlases. Out: atlas "demo" with its source files; all of its cells are labelled as simulated.
"""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from haystack_kernel.atlas.demo.facts import DEMO_SEED, DEMO_VERSION, SEEDS_REPORTING, SEEDS_TUNING
from haystack_kernel.errors import ContractError, InvalidInputError, NotFoundError, StorageError
from haystack_kernel.ports import ProgressEvent
from haystack_kernel.schema import DEMO_ATLAS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from haystack_kernel.ports import Progress

__all__ = ["DEMO_ATLAS", "DEMO_SEED", "SEEDS_REPORTING", "SEEDS_TUNING", "ensure_demo"]

SOURCE_FOLDER = "demo-source"
SCHEMA_OF = {"demo_cytokine_pbmc": "parse_pbmc", "demo_drug_pbmc": "openproblems", "demo_tissues": "tabula_sapiens"}
_PACKAGE = Path(__file__).parents[2]
_MADE_FROM = ("cell_types.tsv", "pathways.tsv", "perturbations.tsv")


def ensure_demo(root: str | Path, *, seed: int = DEMO_SEED, progress: Progress | None = None) -> None:
    """Create the demo atlas unless it exists and is complete; processes that start together wait for the first.

    Parameters
    ----------
    root
        Local folder of all atlases; the atlas goes to ``<root>/demo``, its h5ad files to ``<root>/demo-source``.
    seed
        Seed of the simulated world; the demo atlas uses ``DEMO_SEED``.
    progress
        Receives progress events; None for no listener.

    Raises
    ------
    InvalidInputError
        ``root`` is not a local folder.
    StorageError
        The folder cannot be written.
    """
    if "://" in str(root):
        msg = f"the demo atlas is made in a local folder, not in {root}; choose a local atlas root"
        raise InvalidInputError(msg, root=str(root))
    folder = Path(root).expanduser().absolute()
    sources = _sources(folder, seed)
    if _is_whole(folder, sources):
        return
    try:
        with _locked(folder / SOURCE_FOLDER):
            if not _is_whole(folder, sources):  # another process may have made it meanwhile
                _make(folder, sources, seed=seed, progress=progress)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        msg = f"the demo atlas cannot be written to {folder} ({error}); free space or choose another atlas root"
        raise StorageError(msg, path=str(folder)) from error


def _sources(folder: Path, seed: int) -> dict[str, Path]:
    """Data set -> its file; the name contains a digest of everything the cells are made from."""
    digest = hashlib.sha256(f"{DEMO_VERSION} {seed}".encode())
    tables = [_PACKAGE / "knowledge" / "data" / name for name in _MADE_FROM]
    for path in (Path(__file__).with_name("genes.txt"), *tables):
        digest.update(path.read_bytes())
    tag = f"seed{seed}-{digest.hexdigest()[:12]}"
    return {dataset: folder / SOURCE_FOLDER / f"{dataset}-{tag}.h5ad" for dataset in SCHEMA_OF}


def _is_whole(folder: Path, sources: dict[str, Path]) -> bool:
    """Whether the atlas indexes exactly these files and every file has its recorded size; reads no cells."""
    from haystack_kernel.atlas.record import index_files, load_record

    try:
        record = load_record(DEMO_ATLAS, folder)
    except (NotFoundError, ContractError):
        return False
    if {name: entry.source.uri for name, entry in record.datasets.items()} != {n: str(p) for n, p in sources.items()}:
        return False
    sizes = {Path(entry.source.uri): entry.source.n_bytes for entry in record.datasets.values()}
    sizes |= {folder / DEMO_ATLAS / ref.path: ref.n_bytes for ref in index_files(record)}
    return all(path.is_file() and path.stat().st_size == n_bytes for path, n_bytes in sizes.items())


def _make(folder: Path, sources: dict[str, Path], *, seed: int, progress: Progress | None) -> None:
    from haystack_kernel.atlas.build import BuildOptions, build_atlas
    from haystack_kernel.atlas.demo.simulate import labels_of, simulate
    from haystack_kernel.atlas.demo.world import make_world
    from haystack_kernel.atlas.mapping import load_mapping
    from haystack_kernel.atlas.record import RECORD_FILE
    from haystack_kernel.knowledge import load_knowledge

    knowledge = load_knowledge()
    _tell(progress, "drawing a simulated world", 0.0)
    made = simulate(
        make_world(seed, knowledge=knowledge), progress=lambda what, part: _tell(progress, what, 0.6 * part)
    )
    (folder / DEMO_ATLAS / RECORD_FILE).unlink(missing_ok=True)  # of another seed or version, of which nothing is kept
    for number, (dataset, adata) in enumerate(made.items(), 1):
        beside = sources[dataset].with_suffix(".part")
        adata.write_h5ad(beside, compression="gzip", compression_opts=1)
        beside.replace(sources[dataset])
        schema = SCHEMA_OF[dataset]
        mapping = load_mapping(schema, condition="simulated", rename={"cell_type": labels_of(dataset)})
        mapping = mapping.model_copy(update={"name": f"{schema} (simulated cells)"})
        build_atlas(
            str(sources[dataset]),
            name=DEMO_ATLAS,
            root=folder,
            mapping=mapping,
            knowledge=knowledge,
            options=BuildOptions(dataset=dataset, add=True),
        )
        _tell(progress, f"{dataset} is indexed", 0.6 + 0.4 * number / len(made))
    for path in (folder / SOURCE_FOLDER).glob("*.h5ad"):  # of another seed or version; the atlas no longer names them
        if path not in sources.values():
            path.unlink()


def _tell(progress: Progress | None, message: str, fraction: float) -> None:
    if progress is not None:
        progress(ProgressEvent(run_id=DEMO_ATLAS, phase="demo atlas", message=message, fraction=fraction))


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ModuleNotFoundError:  # Windows: two processes make the same bytes and the renames stay atomic
        yield
        return
    with (folder / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
