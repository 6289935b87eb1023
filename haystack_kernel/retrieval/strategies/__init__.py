"""The six search strategies, one module each, behind one interface (``proposal.Propose``).

In: a query and the view of the atlases. Out: proposals of prompt cells, most relevant first.

``direct``, ``mechanistic``, ``semantic``, ``ontology``
    Cells under the perturbation asked for, under one with a similar mechanism, with a similar description, and of a
    similar cell type.
``donor_context``, ``tissue_atlas``
    Unperturbed cells of similar donors, and healthy references of the tissue.
``treated``, ``observed``
    What the strategies share: the rows of treated cells that may be used, and proposals of unperturbed cells.
``proposal``
    What a strategy yields, and how a proposal becomes a candidate.
"""
