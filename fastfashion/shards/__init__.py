"""The packed-set format and nothing else."""

from fastfashion.shards.reader import PackedSet, Resolution, open_packed_set, open_viewed

__all__ = ["PackedSet", "Resolution", "open_packed_set", "open_viewed"]
