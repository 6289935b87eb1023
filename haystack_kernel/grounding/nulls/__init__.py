"""The nulls that every component of the score is tested against.

Goeman and Buehlmann (Bioinformatics 23:980, 2007) distinguish two questions about a gene set. ``self_contained`` asks
whether the prompt's treatment changes the set at all: the labels of the prompt cells are permuted (field
``p_signal``). ``competitive`` asks whether the prediction changes the set more than other genes: the set is compared
with random sets of matched expression (field ``p_specificity``). ``donors`` asks the first question of donors instead
of cells (field ``p_donors``), because wells differ by more than their cells tell. A component counts the largest of
the p values, because each null alone is passed by an error that another one finds. ``response`` asks of all genes and
of no set, whether donors share any change: that needs no knowledge of the treatment, and is no part of a component.
"""
