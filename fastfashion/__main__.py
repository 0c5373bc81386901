"""`python -m fastfashion` is the `fastfashion` command; torchrun can start it this way."""

from fastfashion.cli import main

if __name__ == "__main__":
    main()
