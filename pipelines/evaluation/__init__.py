"""Evaluation: a model and a benchmark's folders to the paper's tables."""
