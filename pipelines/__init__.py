"""Rows to batches to checkpoints to numbers, on Ray Data and Ray Train."""
