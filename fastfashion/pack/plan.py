"""What to pack: rows to blocks, and what OUT already has of them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fastfashion.catalog import Rejected, Styles, Vocab, read_styles
from fastfashion.errors import InputError, PackedSetError
from fastfashion.files import is_remote
from fastfashion.pack.block import Block
from fastfashion.pack.request import PackRequest, encoder_differences, encoder_settings
from fastfashion.pack.staging import LOCK, STAGING
from fastfashion.remote import children, is_file, is_folder, list_anew, list_children
from fastfashion.shards.layout import CATALOG, FORMAT, FULL, MANIFEST, REJECTED, SET, VOCAB, Manifest, SetFiles
from fastfashion.shards.tables import as_pandas, read_catalog, read_rejected, read_vocab
from fastfashion.sources import Member, Source, open_source
from fastfashion.terminal import printable


@dataclass(frozen=True, kw_only=True)
class PackPlan:
    """Which rows of the table become which block."""

    source: Source
    styles: Styles
    members: list[Member | None]  # the image of each row of the table
    lost: list[Rejected]  # rows that cannot be packed, known before an image is read
    rows: np.ndarray  # int64, positions in the table of the others
    rows_per_shard: int

    def __len__(self) -> int:
        return -(-len(self.rows) // self.rows_per_shard)

    def block(self, number: int) -> Block:
        return Block(number=number, samples=self.samples(self.rows[number * self.rows_per_shard : (number + 1) * self.rows_per_shard]))

    def samples(self, positions: np.ndarray) -> list[Any]:
        """Id, member and labels of rows, as Block.samples has them."""
        rows = self.styles.table.iloc[positions]
        names = self.styles.labels
        labels = [dict(zip(names, row, strict=True)) for row in zip(*(rows[name].tolist() for name in names), strict=True)]
        return list(zip(rows["id"].tolist(), [self.members[position] for position in positions.tolist()], labels, strict=True))

    def source_counts(self, out: Path, rejected: int) -> dict[str, Any]:
        """The fields that PackSummary and DryRun share, but for `resumed`."""
        return {
            "out": out,
            "table": self.source.table,
            "account": self.styles.account,
            "num_rows": self.styles.num_rows,
            "rejected": rejected,
            "images_without_row": self.source.finder.without_row(self.members),
            "passed_over": dict(self.source.skipped),
        }

    def fingerprint(self, request: PackRequest, resolutions: Sequence[str]) -> dict[str, Any]:
        """What must be equal for staged work to be resumed."""
        table = hashlib.sha256(pd.util.hash_pandas_object(self.styles.table, index=False).to_numpy().tobytes()).hexdigest()
        return {
            "version": FORMAT.newest,
            "source": printable(str(self.source.path)),
            "files": self.source.fingerprint(),
            "table": table,
            "labels": list(self.styles.labels),
            "no_label": list(request.columns.no_label),
            "resolutions": list(resolutions),
            "encoder": encoder_settings(request.quality, request.subsampling),
            "max_pixels": request.max_pixels,
            "rows_per_shard": request.rows_per_shard,
        }


def make_plan(request: PackRequest) -> PackPlan:
    """Read the table and find the image of each row; raises InputError if nothing can be packed."""
    source = open_source(request.source, request.table)
    where = str(source.table_file) if source.table_file is not None else f"{source.path}: {source.table}"
    styles = read_styles(source.read_table(), where, request.columns)
    found = source.finder.find(styles.files())
    missing, used = dict(found.missing), dict[str, int]()  # by name of an image: the row that uses it
    for place, member in enumerate(found.members):
        if member is not None and (before := used.setdefault(member.name, place)) != place:  # two texts may name one file
            missing[place] = f"its image {member.name} already belongs to line {int(styles.table['line'].iloc[before])}"
    lost = list(styles.rejected)
    unreadable = source.unreadable()
    for position, reason in sorted(missing.items()):
        row = styles.table.iloc[position]
        lost.append(Rejected(id=row["path"], line=int(row["line"]), reason=reason + unreadable * (reason == "no image")))
    rows = np.setdiff1d(np.arange(len(styles.table)), list(missing))
    if not len(rows):
        first = lost[len(styles.rejected)]
        raise InputError(
            f"{source.path}: none of the {styles.num_rows} rows of {source.table} has an image (line {first.line}, id {first.id!r}: "
            f"{first.reason}); expected paths of images, or their names without suffix, such as {min(source.files)!r}; "
            "--id-column names the column that has them"
        )
    return PackPlan(source=source, styles=styles, members=found.members, lost=lost, rows=rows, rows_per_shard=request.rows_per_shard)


def already_packed(request: PackRequest, styles: Styles) -> tuple[str, ...]:
    """The resolutions that OUT has of this table; raises PackedSetError if it holds something else."""
    out = request.out
    list_anew(out)  # another client may have packed there since this process looked
    if not is_file(out / SET):
        _check_empty(request)
        return ()
    try:
        set_files = SetFiles.read(out / SET)
        vocab = read_vocab(out, set_files)
        packed, num_rejected = as_pandas(read_catalog(out, vocab, set_files)), len(read_rejected(out))
    except PackedSetError as error:
        raise PackedSetError(f"{out}: holds a damaged set ({error}); choose another --out or remove it") from error
    _check_same_rows(request, styles, vocab, packed, num_rejected)
    found = tuple(path.name for path in children(out) if is_file(path / MANIFEST))
    for name in set(found) & set(request.resolutions) - {FULL}:
        encoder = Manifest.read(out / name / MANIFEST).encoder or {}
        if different := encoder_differences(encoder, request.quality, request.subsampling):
            raise PackedSetError(
                f"{out / name}: packed with other settings or library versions, {', '.join(different)}; remove that folder to pack it again"
            )
    return found


def _check_empty(request: PackRequest) -> None:
    """OUT holds at most what a run left that was stopped before it published set.json."""
    out, ours = request.out, {STAGING, LOCK, VOCAB, REJECTED, CATALOG}
    if is_remote(out):
        ours |= set(request.resolutions)
    if not is_folder(out):
        return
    # On object storage, an empty object that only marks a folder does not count, nor does a folder with nothing else in it.
    there = [path for path, is_dir in list_children(out).items() if not (is_dir and is_remote(out)) or children(path)]
    if foreign := sorted(path.name for path in there if path.name not in ours):
        raise PackedSetError(f"{out}: expected an empty folder or a packed set, found {foreign[0]}; choose another --out")


def _check_same_rows(request: PackRequest, styles: Styles, vocab: Vocab, packed: pd.DataFrame, num_rejected: int) -> None:
    """Refuse a set of other labels, ids or rows, or one for which other cells had no label."""
    out, found = request.out, list(vocab.classes)
    if found != list(styles.labels):
        raise PackedSetError(
            f"{out}: holds a set with the label columns {', '.join(found)}, but {', '.join(styles.labels)} were requested; "
            f"choose another --out or --label-columns {','.join(found)}"
        )
    if "path" not in packed and not packed["id"].isin(styles.table["id"]).all():
        raise PackedSetError(
            f"{out}: holds a set of format version 2, in which ids are names of images without folder and suffix, which they no longer are "
            "(docs/tables.md); choose another --out or remove it"
        )
    columns = ["id", *styles.labels]
    expected = styles.table.set_index("id").reindex(packed["id"]).reset_index()
    same = packed[columns].astype(str).equals(expected[columns].astype(str))
    if not same or len(packed) + num_rejected != styles.num_rows:
        raise PackedSetError(
            f"{out}: holds another set (its rows differ from those of {request.source}); choose another --out or remove it"
        )
    classes = Vocab.of_table(packed, styles.labels, request.columns.no_label).classes
    for task in (task for task in classes if classes[task] != vocab.classes[task]):
        before = "" if "path" in packed else "version 2 counted only empty cells and NA as no label: add --na-values NA, or "
        raise PackedSetError(
            f"{out}: packed with other --na-values (its {len(vocab.classes[task])} classes of {task} would be {len(classes[task])}); "
            f"{before}choose another --out or remove it"
        )
