"""Metrics, evaluation on folders, the reference procedure and the benchmark."""
