"""Inference, metrics, a look into the network, and the results as files."""
