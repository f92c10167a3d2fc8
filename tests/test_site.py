"""Documentation and files for GitHub: lines, names of modules, schemas, and the site that is built."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.parametrize("page", [*DOCS.rglob("*.md"), *DOCS.parent.glob("*.md")], ids=lambda p: p.name)
def test_documents_break_their_lines(page):
    """A line has 100 columns or one sentence; tables, code, links and what tools write are left."""
    if "results" in page.parts:
        pytest.skip("written by benchmarks/accuracy.py")
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


@pytest.mark.parametrize(
    ("schema", "pattern"),
    [
        ("github-workflows", ".github/workflows/*.yml"),
        ("github-issue-forms", ".github/ISSUE_TEMPLATE/[!c]*.yml"),
        ("github-issue-config", ".github/ISSUE_TEMPLATE/config.yml"),
        ("citation-file-format", "CITATION.cff"),
    ],
)
def test_files_that_others_read_follow_their_schemas(schema, pattern):
    checker = pytest.importorskip("check_jsonschema")
    from click import testing

    files = [str(path) for path in DOCS.parent.glob(pattern)]
    assert files
    done = testing.CliRunner().invoke(checker.main, ["--builtin-schema", f"vendor.{schema}", *files])
    assert done.exit_code == 0, done.output
