"""The epoch plan and the backends that execute it."""

from fastfashion.load.loader import open_loader
from fastfashion.load.plan import Plan
from fastfashion.load.spec import Batch, Loader, LoaderSpec, Profile, Skipped, choose_images

__all__ = ["Batch", "Loader", "LoaderSpec", "Plan", "Profile", "Skipped", "choose_images", "open_loader"]
