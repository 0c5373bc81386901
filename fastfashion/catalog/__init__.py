"""The table of products: its labels, vocabulary, splits and corrections."""

from fastfashion.catalog.corrections import correct
from fastfashion.catalog.ids import old_id
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
    "Rejected",
    "Split",
    "Styles",
    "Vocab",
    "correct",
    "ids_hash",
    "joint_split",
    "old_id",
    "oversampled",
    "read_styles",
    "split_rows",
]
