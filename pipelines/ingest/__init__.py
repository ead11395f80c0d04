"""``clippy data import``: other people's datasets to equal row groups of our Parquet."""
