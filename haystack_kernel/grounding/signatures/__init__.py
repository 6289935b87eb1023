"""Signed gene sets: expected genes, competing signatures, regulons, enrichment statistics."""
