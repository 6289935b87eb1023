"""Runs prediction tasks on cells, as the program of the GPU container and as a subprocess of the local executor.

In: addresses of cells, by flags or in a manifest. Out: predicted cells beside result files.

This package never imports ``haystack_kernel``. The kernel imports only what needs no model: the manifest contract, the
numpy baselines, the checks of input cells, the errors, and the client for buckets with its retries.
"""

__version__ = "0.1.0"
