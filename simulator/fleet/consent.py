"""What the viewers of a fleet allow: as in the world, some under European law, some under American, some under none."""

from __future__ import annotations

from datastreamx.model.events import Consent

# TCF v2 core strings (German publisher): purposes 1 to 11 for some vendors; the other grants nothing to nobody.
_TCF_GRANTED = "CP1R2oAP1R2oAEsAEBENB4FgAP_gAELAAAYgGVQA4AAgB4AEyBeYGVAA9ABgAUADwAA"
_TCF_DECLINED = "CP1R2oAP1R2oAEsAEBENB4FgAAAAAAAAAAYgAAQAAAAgAAAA"
# GPP header for the one section 6, which is the U.S. privacy string.
_GPP_HEADER = "DBABTA"
_US_GRANTED, _US_DECLINED = "1YNN", "1YYN"
_US_SECTION = 6

_GRANTED: tuple[Consent | None, ...] = (
    Consent(history=True, gdpr=1, tcf=_TCF_GRANTED),
    Consent(history=True, gdpr=1, tcf=_TCF_GRANTED),
    Consent(history=True, gdpr=0, us_privacy=_US_GRANTED, lmt=0),
    Consent(history=True, gpp=f"{_GPP_HEADER}~{_US_GRANTED}", gpp_sid=(_US_SECTION,), us_privacy=_US_GRANTED),
    Consent(history=True),
)
_DECLINED: tuple[Consent | None, ...] = (
    Consent(gdpr=1, tcf=_TCF_DECLINED),
    Consent(gdpr=1, tcf=_TCF_DECLINED),
    Consent(gdpr=0, us_privacy=_US_DECLINED, lmt=1),
    Consent(gpp=f"{_GPP_HEADER}~{_US_DECLINED}", gpp_sid=(_US_SECTION,), us_privacy=_US_DECLINED, lmt=1),
    # Older boxes say nothing.
    None,
)

CONSENTS = _GRANTED + _DECLINED
"""All kinds; a box keeps the index of its own."""


def consent_index(chance: float, share: float) -> int:
    """Index into `CONSENTS` of a viewer.

    Args:
        chance: Number in [0, 1) that is the viewer's.
        share: Share of viewers that agree to the use of their viewing history.
    """
    if chance < share:
        return int(chance / share * len(_GRANTED))
    return len(_GRANTED) + int((chance - share) / (1 - share) * len(_DECLINED))
