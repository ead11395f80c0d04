"""Class lists and prompts of the benchmarks, as data with their sources."""
