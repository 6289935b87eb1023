"""``python -m haystack_kernel`` is the ``haystack`` command."""

from haystack_kernel.cli import main

if __name__ == "__main__":
    main()
