"""What there is to pack: rows to blocks, and what OUT has of them already."""

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
from fastfashion.pack.commit import encoder_settings, same_encoder
from fastfashion.pack.request import PackRequest
from fastfashion.pack.staging import LOCK, STAGING, has_manifest
from fastfashion.remote import children, is_file, is_folder, list_anew, list_children
from fastfashion.shards.layout import CATALOG, FORMAT_VERSION, FULL, MANIFEST, REJECTED, SET, VOCAB, Manifest, SetFiles
from fastfashion.shards.tables import read_catalog, read_rejected, read_vocab
from fastfashion.sources import Member, Source, open_source
from fastfashion.terminal import printable


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Which rows become which block."""

    source: Source
    styles: Styles
    members: list[Member | None]  # the image of each row of the table
    lost: list[Rejected]  # rows that cannot be packed at all
    rows: np.ndarray  # int64, positions in the table of those that may be
    rows_per_shard: int

    def __len__(self) -> int:
        return -(-len(self.rows) // self.rows_per_shard)

    def block(self, number: int) -> Block:
        return Block(number=number, samples=self.samples(self.rows[number * self.rows_per_shard : (number + 1) * self.rows_per_shard]))

    def samples(self, positions: np.ndarray) -> list[Any]:
        rows = self.styles.table.iloc[positions]
        names = self.styles.labels
        labels = zip(*(rows[name].tolist() for name in names), strict=True)
        members = (self.members[position] for position in positions.tolist())
        ids = rows["id"].tolist()
        return [(i, member, dict(zip(names, row, strict=True))) for i, member, row in zip(ids, members, labels, strict=True)]


def make_plan(request: PackRequest) -> Plan:
    """Read the table and find the image of each row; raises InputError where nothing can be packed."""
    source = open_source(request.source, request.table)
    where = str(source.table_file) if source.table_file is not None else f"{source.path}: {source.table}"
    styles = read_styles(source.read_table(), where, request.columns)
    found = source.finder.find(styles.files())
    missing = found.missing | _taken_before(styles, found.members)
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
    return Plan(source=source, styles=styles, members=found.members, lost=lost, rows=rows, rows_per_shard=request.rows_per_shard)


def _taken_before(styles: Styles, members: list[Member | None]) -> dict[int, str]:
    """Rows whose image is that of an earlier row: two texts may name one file."""
    first: dict[str, int] = {}
    taken = {}
    for place, member in enumerate(members):
        if member is not None and (before := first.setdefault(member.name, place)) != place:
            taken[place] = f"its image {member.name} is that of line {int(styles.table['line'].iloc[before])} already"
    return taken


def already_packed(request: PackRequest, styles: Styles) -> tuple[str, ...]:
    """Resolutions that OUT has of this very table; raises PackedSetError where it holds something else."""
    out = request.out
    list_anew(out)  # another client may have packed there since this process looked
    if not is_file(out / SET):
        ours = {STAGING, LOCK, VOCAB, REJECTED, CATALOG}  # a run may have been cut off just before it published set.json
        if is_remote(out):
            ours |= set(request.resolutions)
        foreign = sorted(path.name for path in _contents(out) if path.name not in ours)
        if foreign:
            raise PackedSetError(f"{out}: expected an empty folder or a packed set, found {foreign[0]}; choose another --out")
        return ()
    try:
        told = SetFiles.read(out / SET)
        vocab = read_vocab(out, told)
        packed, num_rejected = read_catalog(out, vocab, told), len(read_rejected(out))
    except PackedSetError as error:
        raise PackedSetError(f"{out}: holds a damaged set ({error}); choose another --out or remove it") from error
    _check_label_columns(out, list(vocab.classes), styles.labels)
    if "path" not in packed and not packed["id"].isin(styles.table["id"]).all():
        raise PackedSetError(
            f"{out}: holds a set of format version 2, in which ids are names of images without folder and suffix, and now they are "
            "not (docs/tables.md); choose another --out or remove it"
        )
    columns = ["id", *styles.labels]
    expected = styles.table.set_index("id").reindex(packed["id"]).reset_index()
    same = packed[columns].astype(str).equals(expected[columns].astype(str))
    if not same or len(packed) + num_rejected != styles.num_rows:
        raise PackedSetError(
            f"{out}: holds another set (its rows differ from those of {request.source}); choose another --out or remove it"
        )
    classes = Vocab.of_table(packed, styles.labels, request.columns.no_label).classes
    if classes != (there := vocab.classes):
        task = next(task for task in classes if classes[task] != there.get(task))
        before = "" if "path" in packed else "version 2 counted only empty cells and NA as no label: add --na-values NA, or "
        raise PackedSetError(
            f"{out}: packed with other --na-values (its {len(there.get(task, ()))} classes of {task} would be {len(classes[task])}); "
            f"{before}choose another --out or remove it"
        )
    found = tuple(path.name for path in children(out) if has_manifest(path))
    for name in set(found) & set(request.resolutions):
        encoder = dict(Manifest.read(out / name / MANIFEST).encoder or {})
        encoder.pop("cascade", None)
        if name != FULL and not same_encoder(encoder, encoder_settings(request.quality, request.subsampling)):
            raise PackedSetError(
                f"{out / name}: packed with other settings or library versions ({encoder}); remove that folder to pack it again"
            )
    return found


def _contents(out: Path) -> list[Path]:
    """What is in OUT; on object storage without empty objects that stand for folders, and without folders that hold nothing else."""
    if not is_folder(out):
        return []
    return [path for path, below in list_children(out).items() if not (below and is_remote(out)) or children(path)]


def _check_label_columns(out: Path, found: Sequence[str], wanted: Sequence[str]) -> None:
    """A set that is asked for other labels is whole, and another one."""
    if found != list(wanted):
        raise PackedSetError(
            f"{out}: holds a set with the label columns {', '.join(found)}, and {', '.join(wanted)} are asked for; choose another --out or "
            f"--label-columns {','.join(found)}"
        )


def plan_fingerprint(request: PackRequest, resolutions: Sequence[str], plan: Plan) -> dict[str, Any]:
    """What must be the same for staged work to be gone on with."""
    table = hashlib.sha256(pd.util.hash_pandas_object(plan.styles.table, index=False).to_numpy().tobytes()).hexdigest()
    return {
        "version": FORMAT_VERSION,
        "source": printable(str(plan.source.path)),
        "files": plan.source.fingerprint(),
        "table": table,
        "labels": list(plan.styles.labels),
        "no_label": list(request.columns.no_label),
        "resolutions": list(resolutions),
        "encoder": encoder_settings(request.quality, request.subsampling),
        "max_pixels": request.max_pixels,
        "rows_per_shard": request.rows_per_shard,
    }
