"""An independent runtime of the published STACK architecture.

In: a checkpoint, its gene list, and cells. Out: predicted counts, or vectors of cells.

Only the modules that compute import torch: ``config``, ``genes`` and ``layout`` do not; ``checkpoint``, ``model``,
``generate`` and ``engine`` do.
"""
