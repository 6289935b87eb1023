"""Differential expression: effects and rank tests per gene, and their stability."""
