"""Floor 3: the epoch plan and the backends that execute it."""

from fastfashion.load.batch import Batch, Loader, LoaderSpec, Profile, Skipped, choose_pictures, open_loader
from fastfashion.load.plan import Plan

__all__ = ["Batch", "Loader", "LoaderSpec", "Plan", "Profile", "Skipped", "choose_pictures", "open_loader"]
