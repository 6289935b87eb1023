"""``python -m haystack_kernel`` is the ``haystack`` command."""

import sys
from pathlib import Path

if __name__ == "__main__":
    # "-m" looks in the current folder first, where a folder "inference" would take the place of the program's
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

    from haystack_kernel.cli import main

    main()
