"""The ways to resume that bench/resume.py measures; modules without the libraries themselves, which are imported where a way runs."""
