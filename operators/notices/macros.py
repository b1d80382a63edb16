"""Substitution macros in notice URLs: OpenRTB 2.6, section 4.4. Pure."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from urllib.parse import quote

# Some aggregators hand out URLs whose macros have been percent-encoded on the way. A name is short and holds none of
# what a macro is made of: what comes from outside must not make the search go over the text again and again.
_MACRO = re.compile(r"(?:\$|%24)(?:\{|%7[Bb])([^{}$%]{0,64}(?:%3[Aa][^{}$%]{0,8})?)(?:\}|%7[Dd])")
_BASE64 = ":B64"


def expand(url: str, values: Mapping[str, str]) -> str:
    """`url` with every `${NAME}` replaced by the percent-encoded value of `NAME`.

    `${NAME:B64}` takes the value in Base64. A macro without a value vanishes, as the specification wants it, so no
    text of ours can be mistaken for a value.
    """

    def replace(match: re.Match[str]) -> str:
        name = match[1].upper().replace("%3A", ":")
        value = values.get(name.removesuffix(_BASE64), "")
        if name.endswith(_BASE64):
            value = base64.b64encode(value.encode()).decode()
        return quote(value, safe="")

    return _MACRO.sub(replace, url)
