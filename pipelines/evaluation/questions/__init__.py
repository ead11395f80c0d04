"""What can be asked of a model about a picture: each counts per picture, and sums all pictures' counts up."""
