"""The classifier, its loss, and the folder that it is saved in."""
