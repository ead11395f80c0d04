"""The studies that ship with the package; found by name."""
