"""Training. `python -m fastfashion.train` and torchrun start `__main__`."""
