"""How far to trust a prediction: what the score cannot say.

Read ``agreement`` (the simple engines on the same query cells), ``verdict`` (what the engine adds to them),
``measured`` (measured responses outside the prompt), ``aspects`` (one row for each thing that limits the trust) and
``feedback`` (what a round teaches the next one).
"""
