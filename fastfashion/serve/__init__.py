"""The page and the HTTP API of a run."""
