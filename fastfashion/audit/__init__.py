"""What is wrong with a packed set: duplicates, leaks, image quality, label errors; and what training sees of it."""
