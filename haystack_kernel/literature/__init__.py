"""Papers: found in three services, merged, and read by rules."""

from haystack_kernel.literature.query import build_query, with_genes
from haystack_kernel.literature.search import PaperSearcher

__all__ = ["PaperSearcher", "build_query", "with_genes"]
