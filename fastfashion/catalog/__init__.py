"""Floor 1: the table of products, its labels and splits, and where the images come from."""

from fastfashion.catalog.corrections import correct
from fastfashion.catalog.ids import old_id
from fastfashion.catalog.listing import Member
from fastfashion.catalog.reader import Reader
from fastfashion.catalog.source import Source, open_source
from fastfashion.catalog.splits import JointSplit, Split, ids_hash, joint_split, oversampled, split_rows
from fastfashion.catalog.styles import KAGGLE, LABEL_COLUMNS, NO_LABEL, Account, Columns, Rejected, Styles, read_styles
from fastfashion.catalog.vocab import Vocab

__all__ = [
    "KAGGLE",
    "LABEL_COLUMNS",
    "NO_LABEL",
    "Account",
    "Columns",
    "JointSplit",
    "Member",
    "Reader",
    "Rejected",
    "Source",
    "Split",
    "Styles",
    "Vocab",
    "correct",
    "ids_hash",
    "joint_split",
    "old_id",
    "open_source",
    "oversampled",
    "read_styles",
    "split_rows",
]
