"""Validation of STAC by its schemas and those of its extensions, offline."""

import json
from functools import cache
from pathlib import Path

SCHEMAS = Path(__file__).parent / "schemas"
_CORE = "https://schemas.stacspec.org/v1.1.0/{0}-spec/json-schema/{0}.json"
_EXTENSION = "https://stac-extensions.github.io/{}/{}/schema.json"


@cache
def _registry():
    from pystac.validation.local_validator import get_local_schema_cache
    from referencing import Registry, Resource

    found = dict(get_local_schema_cache())
    for path in SCHEMAS.glob("*.json"):
        found[_EXTENSION.format(*path.stem.split("-"))] = json.loads(path.read_text())
    old, new = (_EXTENSION.format("classification", version) for version in ("v1.1.0", "v2.0.0"))
    found[old] = {**found[new], "$id": old}
    return Registry().with_resources((uri, Resource.from_contents(one)) for uri, one in found.items())


def stac_errors(data):
    """Return what the schemas of STAC 1.1 and of all extensions that an item or a collection names refuse."""
    from jsonschema import Draft7Validator

    core = _CORE.format("collection" if data["type"] == "Collection" else "item")
    errors = []
    for uri in [core, *data.get("stac_extensions", [])]:
        schema = _registry()[uri].contents
        for error in Draft7Validator(schema, registry=_registry()).iter_errors(data):
            causes = [f"{one.json_path}: {one.message[:200]}" for one in error.context or [error]]
            errors.append(f"{uri}: {'; '.join(causes)}")
    return errors
