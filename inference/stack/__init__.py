"""Our own runtime of the published STACK architecture; torch is imported by the modules that compute, no other.

``config`` and ``genes`` need no torch; ``checkpoint``, ``model``, ``generate`` and ``engine`` do.
"""
