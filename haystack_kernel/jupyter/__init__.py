"""HAYSTACK in the sockets of the ecosystem: papermill engine, nbconvert exporter, IPython magic."""
