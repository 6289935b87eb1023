"""The two nulls that every component of the score is tested against.

Goeman and Buehlmann (Bioinformatics 23:980, 2007) distinguish two questions about a gene set. ``self_contained`` asks
whether the prompt's treatment changes the set at all: the labels of the prompt cells are permuted (field
``p_signal``). ``competitive`` asks whether the prediction changes the set more than other genes: the set is compared
with random sets of matched expression (field ``p_specificity``). A component counts the larger of the two p values,
because each null alone is passed by an error that the other one finds.
"""
