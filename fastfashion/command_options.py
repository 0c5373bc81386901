"""The options of every command, with their defaults and help: one dataclass a command, one field an option or argument of the Python API.

command_line.py makes the command line of them, calls.py the functions of `import fastfashion`, tools/reference.py docs/cli.md.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from fastfashion.config import ALL, DECODERS, DEFAULT_RECIPE, FOLDS, PROTOCOLS, DataConfig, RunConfig, parse_settings, settings
from fastfashion.dist import cores_per_process
from fastfashion.errors import ConfigError
from fastfashion.fields import Writes, cast, check, flag_of, option, options_of
from fastfashion.places import check_place, find_shards, find_source, place_of, run_of
from fastfashion.recipes import RECIPES

R = TypeVar("R")
IN, OUT, RUN, MODEL, LIMITS = "In", "Out", "Run", "Model", "Limits"
SETTINGS = {key: (each, about) for key, each, about in settings()}


@dataclass(frozen=True, kw_only=True)
class Request:
    """Options that every command has."""

    as_json: bool = option("Print one JSON document on stdout and all text on stderr.", False, name="json", panel=RUN, only="cli")
    debug: bool = option("Show the traceback of an error.", False, panel=RUN, only="cli")

    def __post_init__(self) -> None:
        check(self, flag_of)


def ask(kind: type[R], given: Mapping[str, Any], warn: Callable[[str], object]) -> R:
    """The request that values by field name make. Raises ConfigError if one is missing, ill-typed or out of its limits.

    Places to write are checked first, before anything is searched for or read. `warn` gets a sentence for each old form.
    """
    values: dict[str, Any] = {}
    for name, (each, about) in sorted(options_of(kind).items(), key=lambda item: item[1][1].writes is None):
        flag, value = flag_of(name, about), given.get(name)
        value = each.default if value is None else value
        if value is None and about.required and about.find is None:
            raise ConfigError(f"{flag}: expected a value, found none")
        if about.old and value not in (None, (), []):
            warn(f"{flag} is an old form, which the next release refuses: use {about.old}")
        if about.find is not None:
            value = value_of(about.find, value, flag)
        elif value is not None:
            value = cast(flag, each.type, value)
        if about.writes is not None and value is not None:
            check_place(value, flag, is_folder=about.writes is Writes.FOLDER)
        values[name] = value
    return kind(**values)


def value_of(find: Callable[[Any], R], value: Any, flag: str) -> R:
    """What `find` makes of a value; its errors that say only what was expected get the option's name."""
    try:
        return find(value)
    except ConfigError as error:
        if str(error).startswith("expected "):
            raise ConfigError(f"{flag}: {error}") from None
        raise


def names_of(names: Any) -> tuple[str, ...]:
    """Several names: texts with commas between, one or a list of them; a text is never taken for its letters."""
    texts = () if names is None else [names] if isinstance(names, str) else names
    if not isinstance(texts, Iterable) or isinstance(texts, bytes | Mapping):
        raise ConfigError(f"expected a name or several, found {names!r}")
    return tuple(name.strip() for text in texts for name in str(text).split(",") if name.strip())


def _tasks(given: Any) -> tuple[str, ...]:
    names = names_of(given)
    return () if names == (ALL,) else names


def labels_of(given: Any) -> str:
    names = names_of(given)
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"expected labels, each once, with commas between, found {','.join(names)!r}")
    return ",".join(names)


def _all_labels(given: Any) -> str:
    return labels_of(given or "all")


def _run_or_none(given: Any) -> Path | None:
    return None if given is None else run_of(given)


def settings_of(given: Any) -> dict[str, Any]:
    if isinstance(given, Mapping):
        return dict(given)
    if not isinstance(given, list | tuple | None):
        raise ConfigError(f'expected settings such as {{"train.epochs": 3}}, found {given!r}')
    return parse_settings(given or ())


def _numbers(given: Any) -> tuple[int, ...]:
    several = () if given is None else [given] if isinstance(given, int | str) else given
    if not isinstance(several, Iterable):
        raise ConfigError(f"expected a number or several, found {given!r}")
    return tuple(cast("--row", int, each) for each in several)


def _resolutions(given: Any) -> tuple[str, ...]:
    return tuple(
        dict.fromkeys(names_of(str(given) if isinstance(given, int) else map(str, given) if isinstance(given, list | tuple) else given))
    )


def _path(given: Any) -> Path | None:
    return None if given is None else place_of(given)


def _cores(given: Any) -> int:
    return cast("--workers", int, given or 0) or cores_per_process(1)


def _images(given: Any) -> Iterable[Any]:
    """One image or place as a list of one; several, and what yields them, as they are."""
    is_one = isinstance(given, str | bytes | bytearray | memoryview | Path) or any(
        hasattr(given, name) for name in ("vocab", "getbands", "fs")
    )
    if not is_one and (not isinstance(given, Iterable) or isinstance(given, Mapping) or hasattr(given, "read")):
        raise ConfigError(f"expected paths, PIL images, arrays or bytes, found {type(given).__name__}")
    several = [given] if is_one or getattr(given, "ndim", 4) < 4 else given
    if isinstance(several, list | tuple) and any(isinstance(each, str) and not each for each in several):
        raise ConfigError("expected a path or an address, found an empty text")  # which would be the current folder
    return several


def _refused(message: str) -> Callable[[Any], None]:
    def find(given: Any) -> None:
        if given is not None:
            raise ConfigError(message)

    return find


def together(short_forms: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by short forms and by --set. Raises ConfigError where both name one, with another value."""
    for key in short_forms.keys() & given.keys():
        each = SETTINGS[key][0]
        one, other = short_forms[key], given[key]
        if cast(key, each.type, one) != cast(key, each.type, other):
            raise ConfigError(f"{key}: is both {one!r} and, with --set {key}={other}, {other!r}: leave one out")
    return {**short_forms, **given}


def set_argument() -> Any:
    what = "Packed set: its folder, s3:// or https:// address; default: the one under shards/."
    return option(what, argument=True, find=find_shards, accepts="Set | None", metavar="SET")


def moved_set(what: str = "Packed set, if it was moved since training.") -> Any:
    return option(what, panel=IN, find=_path, accepts="Set | None", metavar="SET")


def run_argument() -> Any:
    return option("Folder of a run, runs/NAME.", argument=True, required=True, find=run_of, accepts="Run", metavar="RUN")


def source_option(what: str, find: Callable[[Any], Path | None]) -> Any:
    return option(what, panel=IN, find=find, accepts="Place | None", metavar="PATH", positional=True)


def table_option() -> Any:
    return option("CSV table, in --source or elsewhere; default: styles.csv or the only CSV.", "", panel=IN)


def id_column_option() -> Any:
    return option("Column with the paths or names of the images.", "id", panel=IN)


def out_option(what: str, writes: Writes, default: Path | None = None, **about: Any) -> Any:
    metavar = "FILE" if writes is Writes.FILE else "FOLDER"
    accepts = "Place | None" if default is None else "Place"
    return option(what, default, panel=OUT, writes=writes, find=_path, accepts=accepts, metavar=metavar, **about)


def heads_option(what: str, panel: str) -> Any:
    about: dict[str, Any] = {"accepts": "str | Sequence[str]", "find": _tasks, "name": "task", "many": True, "metavar": "TASK"}
    return option(f"{what}, separated by commas or repeated; default: all.", (), panel=panel, **about)


def labels_option() -> Any:
    about: dict[str, Any] = {"find": labels_of, "accepts": "str | Sequence[str]", "metavar": "TASK"}
    return option("Label to predict, or several separated by commas, or all.", "subCategory", panel=IN, many=True, **about)


def settings_option(what: str = "Any other setting, section.key=value (docs/settings.md); repeatable.") -> Any:
    about: dict[str, Any] = {"find": settings_of, "accepts": "Mapping[str, Any] | None", "flag": "--set", "metavar": "KEY=VALUE"}
    return option(what, panel=RUN, many=True, **about)


def recipe_option(panel: str = RUN) -> Any:
    return option("Named settings: fast, finetune, best or reference.", DEFAULT_RECIPE, panel=panel)


def processes_option() -> Any:
    return option("Worker processes; default: one per core.", panel=RUN, find=_cores, least=1, accepts="int | None", most=1024)


def workers_option() -> Any:
    return option("Loader threads per process; 0: its share of the cores.", 0, panel=RUN, least=0)


def raw_option(**about: Any) -> Any:
    return option("Write CSV cells such as =1+1 unescaped, for programs.", False, panel=OUT, **about)


def device_option() -> Any:
    return option("Device, such as cuda:1; default: the current one.", only="api", accepts="str | torch.device | None")


def short(key: str, panel: str, **about: Any) -> Any:
    """A short form of the setting `key`: its help, limits and type are declared there, and None leaves it as it is."""
    each, known = SETTINGS[key]
    of_recipe = any(key in values for name, values in RECIPES.items() if name != "reference")
    default = "" if isinstance(each.default, bool) else "of the recipe" if of_recipe else str(each.default)
    limits = {name: getattr(known, name) for name in ("choices", "least", "above", "most", "below")}
    return option(known.help, panel=panel, setting=key, shown_default=default, **limits, **about)


def short_forms(request: Any) -> dict[str, Any]:
    """The settings that the short forms of a request name."""
    found = {about.setting: getattr(request, name) for name, (_, about) in options_of(request).items() if about.setting}
    return {key: value for key, value in found.items() if value is not None}


def view_settings(settings: Mapping[str, Any]) -> DataConfig:
    """The part of `settings` that is a view of a set."""
    named = {
        key: value for key, value in settings.items() if key in ("data.where", "data.classes", "data.class_map", "data.min_class_size")
    }
    return RunConfig(data=DataConfig()).replace(named).data


def old_short(key: str) -> Any:
    return option(SETTINGS[key][1].help, setting=key, hidden=True, old=f"--set {key}=…")


@dataclass(frozen=True, kw_only=True)
class ViewRequest(Request):
    """A request that sees a set under a view."""

    where: str | None = short("data.where", IN, metavar="CONDITION")
    classes: str | None = short("data.classes", IN, metavar="FILE")
    class_map: str | None = short("data.class_map", IN, metavar="FILE")
    min_class_size: int | None = short("data.min_class_size", IN)


@dataclass(frozen=True, kw_only=True)
class SplitRequest(ViewRequest):
    """A request about the parts of a split."""

    protocol: str = option(SETTINGS["data.protocol"][1].help, "stratified", panel=IN, choices=PROTOCOLS)
    split_file: str | None = short("data.split_file", IN, metavar="FILE")
    split_column: str | None = short("data.split_column", IN, metavar="NAME")
    split_by: str = option(SETTINGS["data.split_by"][1].help, "", panel=IN)
    seed: int = option("Seed of the stratified protocol.", 0, panel=IN, least=0)
    fold: int = option("Part to test with the folds protocol.", 0, panel=IN, least=0, below=FOLDS)

    def data(self, shards: Path, task: str) -> DataConfig:
        known = {"data.protocol": self.protocol, "data.split_by": self.split_by, "data.split_seed": self.seed, "data.fold": self.fold}
        return RunConfig(data=DataConfig(shards=str(shards))).replace(known | {"data.task": task} | short_forms(self)).data


@dataclass(frozen=True, kw_only=True)
class DownloadRequest(Request):
    which: str = option(
        "small: images of 60x80; full: the originals, up to 1800x2400.",
        argument=True,
        required=True,
        choices=("small", "full"),
        metavar="small|full",
    )
    out: Path = out_option("Folder for the zip.", Writes.FOLDER, Path("data"), positional=True)
    timeout: float = option("Retry after this many seconds without a byte.", 60.0, panel=RUN, above=0)


@dataclass(frozen=True, kw_only=True)
class DoctorRequest(Request):
    disk: Path = option("Measure the disk of this folder.", Path(), panel=RUN, find=_path, metavar="FOLDER")


@dataclass(frozen=True, kw_only=True)
class SynthRequest(Request):
    out: Path = out_option("Folder to write; must be empty or not exist.", Writes.FOLDER, Path("data/synth"), positional=True)
    rows: int = option("Rows of the table.", 1200, panel=OUT, least=1, most=10**8)
    size: str = option("Size of the images, HxW in pixels, 16x16 to 4096x4096.", "800x600", panel=OUT)
    seed: int = option("Seed: the same seed gives the same bytes.", 0, panel=OUT, least=0, below=2**63)
    workers: int = processes_option()
    res: str | None = option(
        "Refused: was width x height.",
        hidden=True,
        find=_refused("--res: is now --size, height x width in pixels; images 600 wide and 800 high are --size 800x600"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        found = re.fullmatch(r"([0-9]{1,9})x([0-9]{1,9})", self.size)
        if not found or not all(16 <= int(side) <= 4096 for side in found.groups()):
            raise ConfigError(f"--size {self.size}: expected height x width in pixels, each 16 to 4096, such as 800x600")

    @property
    def height_width_px(self) -> tuple[int, int]:
        height, width = self.size.split("x")
        return int(height), int(width)


@dataclass(frozen=True, kw_only=True)
class ShardRequest(Request):
    source: Path = source_option("Zip or folder of images and a table, or its address; default: the one under data/.", find_source)
    table: str = table_option()
    id_column: str = id_column_option()
    label_columns: str = option(
        "Columns to learn, separated by commas; default: those of styles.csv.",
        "",
        panel=IN,
        find=lambda given: ",".join(names_of(given)),
        accepts="str | Sequence[str] | None",
    )
    na_values: str | None = option(
        "Spellings of a missing label, separated by commas, such as NA,- (default: docs/tables.md).",
        panel=IN,
        find=lambda given: None if given is None else ",".join(names_of(given)),
        accepts="str | Sequence[str] | None",
    )
    out: Path | None = out_option("Folder of the packed set; default: shards/NAME.", Writes.FOLDER, positional=True)
    res: tuple[str, ...] = option(
        "Shorter side in pixels, or full; repeatable.",
        ("224",),
        panel=OUT,
        find=lambda given: _resolutions(given) or ("224",),
        many=True,
        accepts="int | str | Sequence[int | str]",
    )
    quality: int = option("JPEG quality of resized images.", 90, panel=OUT, least=1, most=100)
    max_rejected: int = option("Stop if more than this many rows cannot be packed.", 1000, panel=IN, least=0)
    max_pixels: int = option("Reject images with more pixels than this.", 100_000_000, panel=IN, least=1, most=2**40)
    workers: int = processes_option()
    engine: str = option("Pack here (local) or on a Ray cluster (ray).", "local", panel=RUN, choices=("local", "ray"))
    address: str | None = option("Address of the Ray cluster, such as auto.", panel=RUN)
    dry_run: bool = option("Print the plan and estimated sizes, and pack nothing.", False, panel=RUN, only="cli")


@dataclass(frozen=True, kw_only=True)
class VerifyRequest(Request):
    shards: Path = set_argument()
    repair: bool = option("Pack damaged shards again from --source.", False, panel=RUN)
    source: Path | None = source_option("With --repair: source of the set; default: the one under data/.", _path)
    table: str = table_option()
    id_column: str = id_column_option()
    workers: int = processes_option()


@dataclass(frozen=True, kw_only=True)
class AuditRequest(ViewRequest):
    shards: Path = set_argument()
    runs: tuple[Path, ...] = option(
        "Also judge labels by this run; repeatable.",
        (),
        name="run",
        panel=IN,
        many=True,
        find=lambda given: tuple(run_of(run) for run in (given if isinstance(given, list | tuple) else [given] if given else ())),
        accepts="Run | Sequence[Run]",
        metavar="RUN",
    )
    corrections: Path | None = option("CSV of id, task, label with labels to correct.", panel=IN, find=_path, accepts="Place | None")
    quality: bool | None = option(
        "Measure all images: dark, light, blurry, blank, gray, odd; default: of a set on a disk.", panel=RUN, flag="--quality/--no-quality"
    )
    out: Path | None = out_option("Folder for audit.json, lists, and sheets of images.", Writes.FOLDER)
    raw: bool = raw_option()
    workers: int = workers_option()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.corrections is not None and not self.runs:
            raise ConfigError(f"--corrections {self.corrections}: only labels that --run judges are corrected; add it, or leave this out")


@dataclass(frozen=True, kw_only=True)
class SplitsRequest(SplitRequest):
    shards: Path = set_argument()
    task: str = labels_option()
    out: Path = out_option("CSV to write: id,split, in the split's own order.", Writes.FILE, Path("splits.csv"))
    raw: bool = raw_option()


@dataclass(frozen=True, kw_only=True)
class PreviewRequest(ViewRequest):
    shards: Path = set_argument()
    task: str = labels_option()
    count: int = option("Images to show, drawn from those with a label.", 32, name="rows", panel=IN, least=1, most=512)
    row: tuple[int, ...] = option("Show this row of the set instead; repeatable.", (), panel=IN, many=True, find=_numbers)
    out: Path = out_option("PNG to write.", Writes.FILE, Path("preview.png"))
    size: str | None = short("data.size", RUN)
    seed: int = option("Seed of the images and of the augmentation.", 0, panel=RUN, least=0)
    recipe: str = recipe_option()
    settings: dict[str, Any] = settings_option()
    workers: int = processes_option()

    def config(self) -> RunConfig:
        given = {"data.task": self.task} | together(short_forms(self), self.settings)
        return RunConfig(data=DataConfig(shards=str(self.shards))).with_recipe(self.recipe, given)


@dataclass(frozen=True, kw_only=True)
class TrainRequest(Request):
    shards: Path = set_argument()
    task: str = labels_option()
    model: str | None = short("model.name", MODEL)
    size: str | None = short("data.size", MODEL)
    pretrained: bool | None = short("model.pretrained", MODEL, flag="--pretrained/--no-pretrained")
    weights: str | None = short("model.weights", MODEL, metavar="PATH")
    recipe: str = recipe_option(MODEL)
    epochs: int | None = short("train.epochs", MODEL)
    batch_size: int | None = short("train.batch_size", MODEL)
    settings: dict[str, Any] = settings_option()
    nproc: int | None = option("Processes on this machine, one per GPU.", panel=RUN, least=1)
    runs: Path = out_option("Folder of all runs.", Writes.FOLDER, Path("runs"))
    name: str | None = option("Name of the run; default: made from the settings.", panel=OUT)
    resume: str = option("Resume a run of this name: auto, never or must.", "auto", panel=RUN, choices=("auto", "never", "must"))
    seed: int | None = short("train.seed", RUN, hidden=True)
    allow_config_change: tuple[str, ...] = option(
        "Resume with another value of this setting, section.key; repeatable.",
        (),
        panel=RUN,
        hidden=True,
        many=True,
        find=names_of,
        accepts="str | Sequence[str]",
    )
    split_by: str | None = short("data.split_by", IN, hidden=True)
    protocol: str | None = short("data.protocol", IN, hidden=True)
    split_file: str | None = short("data.split_file", IN, hidden=True, metavar="FILE")
    split_column: str | None = short("data.split_column", IN, hidden=True, metavar="NAME")
    where: str | None = short("data.where", IN, hidden=True, metavar="CONDITION")
    classes: str | None = short("data.classes", IN, hidden=True, metavar="FILE")
    class_map: str | None = short("data.class_map", IN, hidden=True, metavar="FILE")
    min_class_size: int | None = short("data.min_class_size", IN, hidden=True)
    corrections: str | None = short("data.corrections", IN, hidden=True)
    workers: int | None = short("data.workers", RUN, hidden=True)
    out: Path | None = out_option("Folder of all runs.", Writes.FOLDER, hidden=True, old="--runs")
    on_bad: str | None = old_short("data.on_bad")
    sync_bn: bool | None = old_short("train.sync_bn")
    keep_optimizer: str | None = old_short("train.keep_optimizer")
    max_time: str | None = old_short("train.max_time")
    resolved: Path | None = option("JSON file of a run whose settings are resolved.", only="cli", hidden=True, find=_path)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name is not None and (self.name in ("", "..") or self.name != Path(self.name).name):
            raise ConfigError(f"--name {self.name}: expected a name, not a path; the folder of all runs is --runs")
        if self.out is not None and self.runs not in (Path("runs"), self.out):
            raise ConfigError(f"--out is the old name of --runs, and one is {self.out}, the other {self.runs}: leave one out")

    def given(self) -> dict[str, Any]:
        """The settings that short forms and --set name."""
        return {"data.task": self.task} | together(short_forms(self), self.settings)

    def config(self, known: Mapping[str, Any] | None = None) -> RunConfig:
        """Defaults, the recipe, what is `known` of first weights, and what is given, each over those before."""
        return RunConfig(data=DataConfig(shards=str(self.shards))).with_recipe(self.recipe, {**(known or {}), **self.given()})


@dataclass(frozen=True, kw_only=True)
class EvaluateRequest(Request):
    run: Path = run_argument()
    shards: Path | None = moved_set("Packed set, if it was moved; another one with --rows unseen.")
    rows: str = option("test, or unseen: ids of --shards that the run never saw.", "test", panel=IN, choices=("test", "unseen"))
    batch_size: int = option("Images per step, over all processes.", 256, panel=RUN, least=1)
    workers: int = workers_option()
    device: Any = device_option()


@dataclass(frozen=True, kw_only=True)
class CompareRequest(Request):
    first: Path = option("Folder of an evaluated run.", argument=True, required=True, find=run_of, accepts="Run", metavar="RUN_A")
    second: Path = option("Another, tested on the same rows.", argument=True, required=True, find=run_of, accepts="Run", metavar="RUN_B")


@dataclass(frozen=True, kw_only=True)
class ScoreRequest(SplitRequest):
    predictions: Path = option(
        "CSV or Parquet of ids, and labels or probabilities.", argument=True, required=True, find=_path, metavar="FILE"
    )
    shards: Path = set_argument()
    task: str = option(
        "Label that is predicted, several with commas, or all.", "all", panel=IN, many=True, find=lambda given: labels_of(given or "all")
    )
    part: str = option("Part of the split to score.", "test", panel=IN, choices=("train", "val", "test"))
    against: Path | None = option(
        "Evaluated run to compare with.", panel=IN, find=lambda run: None if run is None else run_of(run), metavar="RUN"
    )


@dataclass(frozen=True, kw_only=True)
class ReproduceRequest(Request):
    published: str | None = option("Published results, such as fashion-product-images.", argument=True, metavar="NAME")
    shards: tuple[Path, ...] = option(
        "Packed set of their data, one for each image size.",
        (),
        argument=True,
        many=True,
        find=lambda given: tuple(place_of(each) for each in given or ()),
        name="sets",
        metavar="SET",
    )
    small: Path | None = option("Packed set of the small images.", find=_path, hidden=True, old="fashion-product-images SET")
    full: Path | None = option("Packed set of the full images.", find=_path, hidden=True, old="fashion-product-images SET")
    any_set: bool = option("Accept data other than that of the published values.", False, panel=IN)
    split_file: str | None = option("CSV of id and split, where the published split is one; several with commas.", panel=IN, metavar="FILE")
    tasks: tuple[str, ...] = heads_option("Only the cells of these", IN)
    model: tuple[str, ...] = option("Only this model's cells; repeatable.", (), panel=IN, many=True, find=names_of)
    protocol: tuple[str, ...] = option("Only on this split; default: both.", (), panel=IN, many=True, find=names_of)
    recipe: str = recipe_option()
    all_heads: bool = option("Train every model on all labels.", True, panel=RUN, flag="--all-heads/--no-all-heads")
    seeds: int = option("Runs per cell.", 1, panel=RUN, least=1)
    pretrained: bool = option("Start from ImageNet weights.", True, panel=RUN, flag="--pretrained/--no-pretrained")
    epochs: int | None = option("Epochs to train; default: those of the recipe.", panel=RUN, least=1)
    nproc: int | None = option("Processes on this machine, one per GPU.", panel=RUN, least=1)
    settings: dict[str, Any] = settings_option()
    out: Path = out_option("Folder for runs and tables.", Writes.FOLDER, Path("runs/reproduce"))


@dataclass(frozen=True, kw_only=True)
class PredictRequest(Request):
    run: Path = run_argument()
    paths: Iterable[Any] = option(
        "Images, folders, zips, packed sets; - reads paths from stdin.",
        argument=True,
        required=True,
        many=True,
        find=_images,
        metavar="PATH",
        accepts="Images | Iterable[Images]",
    )
    top: int = option("Classes per label, the most probable first.", 3, panel=OUT, least=1)
    tasks: tuple[str, ...] = heads_option("Only these labels", OUT)
    form: str = option("table, csv, jsonl or parquet; default: by --out's suffix.", "auto", name="format", panel=OUT, only="cli")
    out: Path | None = out_option("File to write; default: stdout.", Writes.FILE, only="cli")
    raw: bool = raw_option(only="cli")
    batch_size: int = option("Images per batch.", 256, panel=RUN, least=1)
    workers: int = processes_option()
    device: Any = device_option()


@dataclass(frozen=True, kw_only=True)
class ServeRequest(Request):
    run: Path = run_argument()
    shards: Path | None = moved_set()
    host: str = option("Address to listen on; 0.0.0.0: all addresses of this machine.", "127.0.0.1", panel=RUN)
    port: int = option("Port to listen on; 0: any free one.", 7860, panel=RUN, least=0, most=65535)
    auth: str | None = option("Require user:password. It shows in the process list: prefer --auth-file.", panel=RUN)
    auth_file: Path | None = option(
        "File whose first line is user:password; or set FASTFASHION_AUTH to it.",
        panel=RUN,
        find=_path,
        metavar="FILE",
        accepts="Place | None",
    )
    allow_host: tuple[str, ...] = option(
        "Name of a proxy in front, such as shop.example or *.shop.example; repeatable.",
        (),
        panel=RUN,
        many=True,
        find=names_of,
        accepts="str | Sequence[str]",
    )
    max_mb: int = option("Largest image, in MB.", 20, panel=LIMITS, least=1)
    max_pixels: int = option("Most pixels of an image; decoding may take 20 bytes per pixel.", 40_000_000, panel=LIMITS, least=1)
    max_files: int = option("Most images in a batch.", 200, panel=LIMITS, least=1)
    max_queue: int = option("Most waiting requests, for large images and for others each.", 64, panel=LIMITS, least=1)
    workers: int = processes_option()


@dataclass(frozen=True, kw_only=True)
class ExportRequest(Request):
    run: Path = run_argument()
    to: str = option(
        "onnx: one file; hub: for timm and the Hub; space: a page to put online.",
        required=True,
        panel=OUT,
        choices=("onnx", "hub", "space"),
        positional=True,
    )
    out: Path | None = out_option("Folder to write; default: RUN/export/FORMAT.", Writes.FOLDER)
    int8: bool = option("Also export 8-bit weights and report the accuracy they cost; only onnx.", False, panel=OUT)
    tasks: tuple[str, ...] = heads_option("Only these heads", IN)
    shards: Path | None = moved_set()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.int8 and self.to != "onnx":
            raise ConfigError(f"--int8: only --to onnx has it, not --to {self.to}")


@dataclass(frozen=True, kw_only=True)
class WeightsRequest(Request):
    file: Path = option(".safetensors, .pth or .bin file of weights.", argument=True, required=True, find=_path, metavar="FILE")
    model: str = option("timm model that the weights are for.", required=True, panel=MODEL)
    out: Path | None = out_option("File to write; default: MODEL.safetensors beside FILE.", Writes.FILE)


@dataclass(frozen=True, kw_only=True)
class BenchLoaderRequest(Request):
    shards: Path = set_argument()
    size: str = option(SETTINGS["data.size"][1].help, "auto", panel=IN)
    res: str = option("Packed resolution; default: the smallest that is large enough.", "auto", panel=IN)
    out: Path | None = out_option("JSON file for the record, with machine and versions.", Writes.FILE)
    workers: int = processes_option()
    batch_size: int = option("Images per batch.", 64, panel=RUN, least=1)
    images: int = option("Images per measurement, the same for every backend.", 4096, panel=RUN, least=1)
    rounds: int = option("Interleaved measurements of each backend.", 5, panel=RUN, least=1)
    decoder: str = option("Decoder of plain JPEGs: own or turbo; default: own.", DECODERS[0], panel=RUN, choices=DECODERS)
    backend: tuple[str, ...] = option("Backend to measure, by the start of its name; repeatable.", (), panel=RUN, many=True, find=names_of)
    profile: bool = option("Also print where the time of a batch goes.", False, panel=RUN)
