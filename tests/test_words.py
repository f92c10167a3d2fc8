"""Messages, help and docstrings are plain technical English: what the standard rules out does not spread."""

import ast
import re
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "landcover"
PHRASES = re.compile(
    r"(?<![Tt]here )\b(?:is|are) no (?!longer)\w+|\bha(?:s|ve) not (?!been)\w+|\bhas none\b|\banew\b|\btold\b"
    r"|\btells\b|\bmet\b|\blies\b|\bstands\b(?! for)|\basked\b|\bsays\b|\blikewise\b|\bnowhere\b"
    r"|\btaken for\b|\bsuch as it is\b|\bgone on\b|\bsome \d+|\b(?:what|that) is there\b"
)


def texts(path):
    """Return all texts in a module: docstrings, messages, help, and the fixed parts of f-strings."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def test_no_text_has_a_phrase_that_the_standard_rules_out():
    found = [
        (path.relative_to(SOURCE).parts[0].removesuffix(".py"), path.name, match[0])
        for path in sorted(SOURCE.rglob("*.py"))
        for text in texts(path)
        for match in PHRASES.finditer(text)
    ]
    assert not found
