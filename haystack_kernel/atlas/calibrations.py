"""What back-tests say of an atlas, kept beside its index, one file for each engine.

In: the folder of all atlases. Out: a :class:`haystack_kernel.schema.Calibration`, or None where there is none that
belongs to the atlas as it is now.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from haystack_kernel.atlas.mirror import local_root
from haystack_kernel.atlas.record import atlas_folder, load_record
from haystack_kernel.errors import HaystackError
from haystack_kernel.schema import DEMO_ATLAS, Calibration, Outcome
from haystack_kernel.store import layout
from haystack_kernel.store.buckets import open_files

if TYPE_CHECKING:
    from haystack_kernel.atlas.record import AtlasRecord

PACKAGED = Path(__file__).with_name("demo")  # of the demo atlas, which every installation makes alike


def save(calibration: Calibration, *, root: str) -> str:
    """Keep a calibration with its atlas, in place of an older one of the same engine; returns where it lies."""
    data = calibration.model_dump_json(indent=1).encode()
    place = f"{_folder_of(calibration.atlas, root)}/{layout.calibration_file(calibration.engine, calibration.model)}"
    files, inside = open_files(place)
    files.write(inside, data)
    return place


def save_outcome(outcome: Outcome, *, root: str) -> str:
    """Keep what was measured of a sealed prediction with the atlas that it was predicted from; returns where it lies.

    Back-tests that are made later count it, too.
    """
    place = f"{_folder_of(outcome.prediction.atlas, root)}/{layout.outcome_file(outcome.id)}"
    files, inside = open_files(place)
    files.create(inside, outcome.model_dump_json(indent=1).encode())
    return place


def outcomes_for(calibration: Calibration, *, root: str) -> tuple[Outcome, ...]:
    """Outcomes of sealed predictions by the engine of a calibration, from the atlas with the content it was made of."""
    files, inside = open_files(f"{_folder_of(calibration.atlas, root)}/{layout.OUTCOMES}")
    found = []
    for name in sorted(files.names(inside)):
        try:
            one = Outcome.model_validate_json(files.read(f"{inside}/{name}"))
        except (FileNotFoundError, ValidationError):  # of a later version
            continue
        made_by = (one.prediction.engine, one.prediction.model, one.prediction.stamp)
        if made_by == (calibration.engine, calibration.model, calibration.digest):
            found.append(one)
    return tuple(found)


def _folder_of(atlas: str, root: str) -> str:
    return f"{root}/{atlas}" if "://" in root else str(atlas_folder(atlas, root))


def find(atlas: str, engine: str, *, model: str = "", root: str, cache: str) -> Calibration | None:
    """Find the calibration of an atlas and engine.

    Parameters
    ----------
    atlas
        Name of the atlas.
    engine
        The engine.
    model
        Sha256 of its weights; empty for an engine without.
    root, cache
        Folder or address of all atlases, and of local copies.

    Returns
    -------
    None where none was made, or where it was made with another content of the atlas.
    """
    name = layout.calibration_file(engine, model)
    try:
        record = load_record(atlas, local_root(root, cache=cache, names=()))
    except HaystackError:
        return None
    places = [f"{root}/{atlas}/{name}"]
    if atlas == DEMO_ATLAS:
        places.append(str(PACKAGED / name))
    for place in places:
        files, inside = open_files(place)
        try:
            found = Calibration.model_validate_json(files.read(inside))
        except (FileNotFoundError, ValidationError):
            continue
        if found.digest == stamp(record):
            return found
    return None


def stamp_of(atlas: str, *, root: str, cache: str) -> str:
    """What a calibration of an atlas must agree with, see :func:`stamp`."""
    return stamp(load_record(atlas, local_root(root, cache=cache, names=(atlas,))))


def stamp_at(atlas: str, digest: str, *, root: str, cache: str) -> str:
    """What a calibration of an atlas must agree with, if its index still has the digest given; else empty."""
    record = load_record(atlas, local_root(root, cache=cache, names=(atlas,)))
    return stamp(record) if record.digest == digest else ""


def stamp(record: AtlasRecord) -> str:
    """What a calibration must agree with: the content of the atlas.

    The cells of the demo atlas follow from what its files are named after, while their bytes depend on the packages
    that wrote them.
    """
    if record.name == DEMO_ATLAS:
        return " ".join(sorted(Path(entry.source.uri).stem for entry in record.datasets.values()))
    return record.digest
