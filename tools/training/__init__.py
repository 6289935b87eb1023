"""Training of a small STACK model on simulated worlds: its data, its starting weights and its windows.

In: ``.npz`` files of worlds. Out: the tensors of a checkpoint. ``python -m tools.train_demo`` is the program.
"""
