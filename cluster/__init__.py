"""Where it runs: the command line, and later jobs, cluster configurations and capacity."""
