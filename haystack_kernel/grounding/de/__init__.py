"""Differential expression: effects and rank tests per gene.

Read ``profiles`` (one arm), ``table`` (two arms), then ``background`` (the
standardised effects that every test of a gene set starts from).
"""
