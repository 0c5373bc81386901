"""fastfashion: pack product photographs, feed them to the GPU at full speed, train, and prove how good the result is."""

__version__ = "0.1.0"
