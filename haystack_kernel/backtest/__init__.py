"""Back-tests: measured responses are hidden, predicted by every engine, and compared with what was measured.

Read ``work`` (the whole of it), ``pairs`` (which ones), ``split`` and ``wall`` (what is hidden, and how), ``prepare``
(cells by role), ``metrics`` and ``anchored`` (how near), ``judge`` (one pair), ``calibrate`` (what it says of later
runs).
"""
