"""Searches over recipes, on Ray Tune."""
