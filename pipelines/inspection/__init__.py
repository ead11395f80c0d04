"""``clippy data inspect``: whether a dataset is fit to train on, and what to change."""
