"""Training of a small STACK model on simulated worlds: what is read, where training starts, what it minimises.

In: ``.npz`` files of worlds. Out: the tensors of a checkpoint. ``python -m tools.train_demo`` is the program.
"""
