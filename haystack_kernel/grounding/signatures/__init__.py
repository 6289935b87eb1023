"""What is expected of a response, as signed gene sets, and what else could explain it.

Read ``sets`` (arithmetic of signed sets), ``competing`` (other perturbations that explain a response better), ``walks``
(what the gene network expects), ``regulons`` (what transcription factors add), ``reference`` (cell types, donors and
tissues as they were measured) and ``enrichment`` (the field's two usual tests, for comparison only).
"""
