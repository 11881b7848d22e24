"""Sum up the JUnit files of a test run: test_summary.py FOLDER. The last line is `N passed, N failed, N skipped`.

Exits with 1 when a test failed or none ran.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree


@dataclass(frozen=True)
class Counts:
    """Tests of one or several JUnit files."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.passed + other.passed,
            self.failed + other.failed,
            self.skipped + other.skipped,
            self.seconds + other.seconds,
        )

    def __str__(self) -> str:
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"


def read_counts(path: Path) -> Counts:
    """Counts of a JUnit file; an unreadable one counts as one failure."""
    try:
        suites = list(ElementTree.parse(path).getroot().iter("testsuite"))
    except (OSError, ElementTree.ParseError):
        return Counts(failed=1)
    total = Counts()
    for suite in suites:
        tests, failed, skipped = (
            int(suite.get("tests", 0)),
            int(suite.get("failures", 0)) + int(suite.get("errors", 0)),
            int(suite.get("skipped", 0)),
        )
        total += Counts(max(0, tests - failed - skipped), failed, skipped, float(suite.get("time", 0)))
    return total


def main(folder: Path) -> int:
    """Print a line for each package and the total; the exit code."""
    total = Counts()
    for path in sorted(folder.glob("*/pytest.xml")):
        counts = read_counts(path)
        total += counts
        print(f"{path.parent.name:<22} {counts!s:<40} {counts.seconds:7.1f} s")
    print(total)
    return 0 if total.passed and not total.failed else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
