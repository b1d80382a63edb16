"""What a `vasttag` aggregator can be told."""

from __future__ import annotations

import msgspec

from aggregators.options import Text


class VastTagOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Options of the dialect. Lists are written with commas.

    Attributes:
        mimes: Media types that the boxes play.
        blocked_categories: `<Category>` codes that are refused.
        app_bundle: Bundle id of the program on the box.
    """

    mimes: Text = "video/mp4"
    blocked_categories: Text | None = None
    app_bundle: Text | None = None
