"""Pages of reference that are made from the program itself."""
