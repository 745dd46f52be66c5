"""Inference, metrics, filters and feature maps, and the results as files."""
