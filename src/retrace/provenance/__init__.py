"""Who made which bytes, where they are, and the same made again: what `retrace trace` and `retrace verify` stand on."""
