"""Runs prediction tasks on cells: the GPU container's program, and the local executor's subprocess.

It never imports ``haystack_kernel``; the kernel imports its manifest contract and its numpy baselines.
"""

__version__ = "0.1.0"
