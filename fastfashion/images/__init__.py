"""One image: recognised, checked, decoded, encoded."""
