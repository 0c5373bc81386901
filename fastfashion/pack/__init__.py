"""Floor 3: from a source of pictures to a packed set."""

from fastfashion.pack.packer import PackRequest, PackSummary, pack
from fastfashion.pack.progress import Progress, bar_progress

__all__ = ["PackRequest", "PackSummary", "Progress", "bar_progress", "pack"]
