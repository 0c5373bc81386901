"""Floor 7: a run for those who use it: answers, the page, and other formats."""
