"""Floor 3: from a source of pictures to a packed set."""

from fastfashion.pack.packer import PackRequest, PackSummary, Progress, find_source, pack

__all__ = ["PackRequest", "PackSummary", "Progress", "find_source", "pack"]
