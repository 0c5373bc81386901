"""Answers for files, folders, zips and packed sets."""
