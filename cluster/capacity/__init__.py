"""What a recipe needs of a cluster, how fast it runs there, what bounds it and what it costs: arithmetic alone."""
