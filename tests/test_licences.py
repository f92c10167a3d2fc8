"""Licences of what is installed, as the packages declare them: permissive, or on a list with the reason."""

import re
from importlib import metadata
from pathlib import Path

import pytest

CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"
PERMISSIVE = re.compile(
    r"\b(Apache|MIT|MIT-0|MIT-CMU|0?BSD|ISC|PSF|Python Software Foundation|MPL|Mozilla|Zlib|CC0|BSL)\b"
)
REFUSED = re.compile(r"GPL|General Public|Affero|SSPL|EUPL|Proprietary|Commercial|-NC\b", re.IGNORECASE)
REASONS = {"docutils": "builds the documentation; only its Emacs mode, which nothing here uses, is GPL"}


def declared(name):
    """Return the licence that a distribution declares, the newest field first."""
    fields = metadata.metadata(name)
    classifiers = [text for text in fields.get_all("Classifier") or [] if text.startswith("License ::")]
    return fields["License-Expression"] or "; ".join(classifiers) or (fields["License"] or "").split("\n")[0]


def installed():
    for line in CONSTRAINTS.read_text().splitlines():
        if name := re.match(r"[\w.-]+", line):
            try:
                yield name[0], declared(name[0])
            except metadata.PackageNotFoundError:
                continue


@pytest.mark.parametrize(
    ("licence", "allowed"),
    [
        ("MIT AND PSF-2.0", True),
        ("License :: OSI Approved :: BSD License", True),
        ("License :: OSI Approved :: GNU Affero General Public License v3", False),
        ("MIT AND LGPL-2.1-only", False),
        ("CC-BY-NC-4.0", False),
        ("", False),
    ],
)
def test_the_rule_itself(licence, allowed):
    assert is_permissive(licence) is allowed


def is_permissive(licence):
    return bool(PERMISSIVE.search(licence)) and not REFUSED.search(licence)


def test_the_dependencies_have_permissive_licences():
    found = dict(installed())
    assert len(found) > 50
    assert {name: text for name, text in found.items() if not is_permissive(text)}.keys() <= REASONS.keys()
