"""What docs/bypass.md says that a bypassed node gives."""

from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs" / "bypass.md"
TITLE = " (BLADE)"
Given = dict[tuple[str, str], str | None]


def written() -> Given:
    """By node and output: the input that stands in for it, or None."""
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("|")
    ]
    return {
        (node, output): None if stands_in == "-" else stands_in
        for node, outputs, stands_in, _ in rows[2:]
        for output in outputs.split(", ")
    }
