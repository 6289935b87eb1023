"""How sure a predicted effect is, gene by gene, from the prompt and control cells alone.

Read ``prompt`` (effects of the prompt and what an engine makes of them), ``prior`` (how large effects are),
``transfer`` (how far left-out cell types or donors miss their prediction), then ``calls`` (the table's columns).
"""
