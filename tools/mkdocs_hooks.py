"""Pages from outside of docs/: the format, and the records that benchmarks.md links to."""

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]


def on_files(files: Files, config: Any) -> Files:
    files.append(File.generated(config, "format.md", abs_src_path=str(ROOT / "shards" / "FORMAT.md")))
    for record in sorted((ROOT / "bench" / "results").glob("*.json")):
        files.append(File.generated(config, f"results/{record.name}", abs_src_path=str(record)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    return markdown.replace("](../bench/results/", "](results/").replace("](../shards/FORMAT.md", "](format.md")
