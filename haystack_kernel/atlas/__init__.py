"""An atlas is a searchable index of large cell collections: built once from h5ad files, then read by rows.

In: source files and a mapping of their columns. Out: ``build_atlas``, ``open_atlases``, ``atlas_info`` and others.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from haystack_kernel.atlas.build import BuildOptions, BuildReport, build_atlas
    from haystack_kernel.atlas.check import check_atlas, move_source
    from haystack_kernel.atlas.draft import Draft, draft_mapping
    from haystack_kernel.atlas.index import AtlasCollection, open_atlases
    from haystack_kernel.atlas.mapping import SCHEMAS, Mapping, load_mapping
    from haystack_kernel.atlas.mirror import local_root
    from haystack_kernel.atlas.record import atlas_info, list_atlases

_FACE = {"from_anndata": "haystack_kernel.atlas_in"}  # needs settings, so it lies above the atlases
_MODULES = {
    "build_atlas": "build",
    "BuildOptions": "build",
    "BuildReport": "build",
    "open_atlases": "index",
    "AtlasCollection": "index",
    "Draft": "draft",
    "draft_mapping": "draft",
    "list_atlases": "record",
    "atlas_info": "record",
    "local_root": "mirror",
    "check_atlas": "check",
    "move_source": "check",
    "Mapping": "mapping",
    "load_mapping": "mapping",
    "SCHEMAS": "mapping",
}
__all__ = [
    "SCHEMAS",
    "AtlasCollection",
    "BuildOptions",
    "BuildReport",
    "Draft",
    "Mapping",
    "atlas_info",
    "build_atlas",
    "check_atlas",
    "draft_mapping",
    "from_anndata",
    "list_atlases",
    "load_mapping",
    "local_root",
    "move_source",
    "open_atlases",
]


def __getattr__(name: str) -> object:  # lazy, because listing atlases must not import anndata or DuckDB
    if name in _FACE:
        return getattr(import_module(_FACE[name]), name)
    if name in _MODULES:
        return getattr(import_module(f"haystack_kernel.atlas.{_MODULES[name]}"), name)
    msg = f"haystack_kernel.atlas has no {name!r}; it has {__all__}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted(__all__)
