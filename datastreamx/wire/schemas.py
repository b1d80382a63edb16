"""JSON Schemas of the JSON topics, generated from the structs and committed beside them.

`python -m datastreamx.wire.schemas` writes them anew. A test compares the committed files with the structs, so that a
change of the wire shows in review.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from datastreamx.model.auction import Decision
from datastreamx.model.events import BoxEvent

SCHEMA_DIRECTORY = Path(__file__).parent / "schemas"

TOPICS = {"box-events": BoxEvent, "ad-decisions": Decision}


def schema_text(topic: str) -> str:
    """JSON Schema of a topic's values, formatted for review."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **msgspec.json.schema(TOPICS[topic])}
    return msgspec.json.format(msgspec.json.encode(schema), indent=2).decode() + "\n"


def main() -> None:
    """Write all schemas."""
    SCHEMA_DIRECTORY.mkdir(exist_ok=True)
    for topic in TOPICS:
        (SCHEMA_DIRECTORY / f"{topic}.schema.json").write_text(schema_text(topic), encoding="utf-8")


if __name__ == "__main__":
    main()
