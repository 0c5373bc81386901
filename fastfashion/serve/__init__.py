"""A run for those who use it: answers, the page, and other formats."""
