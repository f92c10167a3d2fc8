"""The documentation as text: its lines, the modules that it names, and the site that is built of it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.parametrize("page", [*DOCS.rglob("*.md"), *DOCS.parent.glob("*.md")], ids=lambda p: p.name)
def test_documents_break_their_lines(page):
    """A line has 100 columns or one sentence; tables, code and links are left. Reports are records."""
    if "reports" in page.parts:
        pytest.skip("a record, kept as it was written")
    text = re.sub(r"^(```|~~~).*?^\1", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    long = [line for line in text.splitlines() if len(line) > 100 and "|" not in line and "](" not in line]
    assert [line for line in long if re.search(r"[.;:] [^ ]+ ", line)] == []


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_fetches_nothing(tmp_path):
    command = [
        sys.executable,
        *["-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"],
        str(DOCS),
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    fetched = re.compile(r"""<(?:script|link|img|iframe)[^>]*(?:src|href)=["'](?:https?:)?//""")
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 25
    assert [page for page in pages if fetched.search(page.read_text(encoding="utf-8"))] == []


def test_the_design_page_names_modules_that_exist():
    root = DOCS.parent
    named = set(re.findall(r"`((?:\w+/)+\w+\.py)`", (DOCS / "design.md").read_text(encoding="utf-8")))
    assert len(named) > 20
    assert [
        name for name in named if not any((top / name).exists() for top in (root, root / "src/landcover"))
    ] == []
