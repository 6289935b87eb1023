"""The components of the score, each a statistic tested against both nulls, and the map from p values to scores.

Read ``score`` (p values to scores, components to the composite), ``expected`` (which components a question has and
what they expect), ``gene_set``, ``literature``, ``network`` and ``observational`` (one kind of component each),
``compute`` (all components of a question) and ``pathways`` (the table of all pathways).
"""
