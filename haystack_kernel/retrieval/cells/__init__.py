"""The cells of a round by role: prompt cells, their control cells, query cells, and reference cells for the score.

In: a query, the atlas and the ranked candidates. Out: cell sets, and raw counts by role.

``matched_control``
    The control cells of one candidate; its docstring has the design of all roles.
``query_cells``, ``own_cells``, ``query_check``
    The cells to be transformed: chosen from the atlas, or the user's own, which are checked first.
``assemble``, ``sample``, ``balance``
    Pooling, seeded sampling, and equal composition of prompt and control cells.
``reference``, ``measured``
    Unperturbed reference cells, and measured responses that the prompt did not use.
"""
