"""Source files of an atlas (h5ad, Zarr), on this disk or in a bucket, read by the chunks that are needed."""
