"""The recipes that ship with the package; found by name."""
