"""Where images and tables come from: folders, zips, object storage, Kaggle, and the drawn stand-in."""

from fastfashion.sources.listing import Member
from fastfashion.sources.reader import Reader
from fastfashion.sources.source import Source, open_source

__all__ = ["Member", "Reader", "Source", "open_source"]
