"""Differential expression: effects and rank tests per gene, and their stability.

Read ``profiles`` (one arm), ``table`` (two arms), ``resample`` (other seeds and donors), then ``background`` (the
standardised effects that every test of a gene set starts from).
"""
