"""docs/security.md and docs/faults.md: each part has its promises, each fault a test, and what they name is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SECURITY, FAULTS = ((ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8") for name in ("security", "faults"))


def parts(text: str) -> dict[str, str]:
    """What is below each heading of the second level."""
    return dict(part.split("\n", 1) for part in re.split(r"^## ", text, flags=re.MULTILINE)[1:])


def rows(text: str) -> list[list[str]]:
    """Cells of the rows of its tables, without heads."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    return [cells for cells in lines if not cells[0].startswith(("---", "fault"))]


@pytest.mark.parametrize("part", parts(SECURITY))
def test_each_part_has_its_promises(part: str) -> None:
    text = parts(SECURITY)[part]
    assert len(text.strip()) > 200
    named = re.findall(r"(?:tests|tools|docs)/[\w./-]+\.\w+", text) + [f"docs/{name}" for name in re.findall(r"\]\((\w+\.md)", text)]
    assert [name for name in named if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize("part", parts(FAULTS))
def test_each_fault_has_four_cells_and_a_test(part: str) -> None:
    found = rows(parts(FAULTS)[part])
    assert found
    for cells in found:
        assert len(cells) == 4 and all(cells), cells
        tests = re.findall(r"\btest_\w+\.py", cells[3])
        assert tests or "make fuzz" in cells[3], cells
        assert all((ROOT / "tests" / name).is_file() for name in tests), cells
