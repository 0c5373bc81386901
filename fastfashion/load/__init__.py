"""The epoch plan, the loader, and the backends that execute the plan."""

from fastfashion.load.batch import Batch, Profile, Skipped
from fastfashion.load.loader import Loader, notes
from fastfashion.load.plan import Plan
from fastfashion.load.spec import LoaderSpec, Selection, choose_images, in_order, make_spec

__all__ = ["Batch", "Loader", "LoaderSpec", "Plan", "Profile", "Selection", "Skipped", "choose_images", "in_order", "make_spec", "notes"]
