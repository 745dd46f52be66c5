"""Provenance: which run made which file, where it is now, and how to reproduce it.

run_index (runs by id and by MD5) -> resolve (names) -> lineage (trace) | reproduce, diff (verify)
"""
