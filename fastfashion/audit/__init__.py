"""What is wrong with a packed set: duplicates, leaks, image sizes, label errors; and what training sees of it."""
