"""What is wrong with a packed set: duplicates, leaks, image quality, label errors; and a look at what training sees."""
