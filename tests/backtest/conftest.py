"""The designed atlas of the search, for what is hidden from it."""

from tests.retrieval.conftest import knowledge, make_atlas, row

__all__ = ["knowledge", "make_atlas", "row"]
