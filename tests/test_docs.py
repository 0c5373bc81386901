"""docs/faults.md: each fault has a test that is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FAULTS = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")


def parts(text: str) -> dict[str, str]:
    """What is below each heading of the second level."""
    return dict(part.split("\n", 1) for part in re.split(r"^## ", text, flags=re.MULTILINE)[1:])


def rows(text: str) -> list[list[str]]:
    """Cells of the rows of its tables, without heads."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    return [cells for cells in lines if not cells[0].startswith(("---", "fault"))]


@pytest.mark.parametrize("part", parts(FAULTS))
def test_each_fault_has_four_cells_and_a_test(part: str) -> None:
    found = rows(parts(FAULTS)[part])
    assert found
    for cells in found:
        assert len(cells) == 4 and all(cells), cells
        tests = re.findall(r"\btest_\w+\.py", cells[3])
        assert tests or "make fuzz" in cells[3], cells
        assert all((ROOT / "tests" / name).is_file() for name in tests), cells
