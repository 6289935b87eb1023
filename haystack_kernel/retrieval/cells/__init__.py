"""Cells by role: matched controls, query cells, reference cells, sampling and pooling."""
