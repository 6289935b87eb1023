"""Similarity of what is asked for to what the atlases hold, by kind.

In: a query with rows of conditions, or texts. Out: numbers in [0, 1] and phrases for the reasons of candidates.

``cell_types``
    Distance in the cell ontology.
``donors``
    Tissue, disease, age and sex in common.
``perturbations``
    Targets and signed pathways in common.
``descriptions``, ``vectoriser``, ``vectors``
    Texts about conditions, the tf-idf vectors of these texts, and the file in which the vectors are kept.
"""
