"""Data sets, downloads, splits, files on disk and batches."""
