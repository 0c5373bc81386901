"""The epoch plan and the backends that execute it."""

from fastfashion.load.batch import Batch, Loader, Profile, Skipped
from fastfashion.load.loader import open_loader
from fastfashion.load.plan import Plan
from fastfashion.load.spec import LoaderSpec, choose_images

__all__ = ["Batch", "Loader", "LoaderSpec", "Plan", "Profile", "Skipped", "choose_images", "open_loader"]
