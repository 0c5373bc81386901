"""Floor 6: training. `python -m fastfashion.train` and torchrun start `__main__`."""
