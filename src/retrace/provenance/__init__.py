"""Provenance: which run made which bytes, where they are, and how to reproduce them.

run_index (runs by id and by bytes) -> resolve (names) -> lineage (trace) | reproduce, diff (verify)
"""
