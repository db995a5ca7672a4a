"""Metrics that several benchmarks share: answers -> scores, without a model."""
