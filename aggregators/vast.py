"""A safe reader of VAST 2 to 4 documents (IAB Tech Lab, Video Ad Serving Template).

Nothing is fetched: wrappers are refused, because no auction has time to resolve them, and so is everything by which an
XML document could reach out or grow: DTDs, entities, processing instructions, XInclude, encodings other than UTF-8.
Every address in an ad must be https. What is handed on to a box is not the text that came but what was read of it,
written anew with one ad in it: box and auction cannot read it differently.
"""

from __future__ import annotations

import base64
import copy
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import msgspec
from lxml import etree

from aggregators.contract import ReplyError
from aggregators.replies import host_of, is_host
from datastreamx.model.auction import Outcome

MAX_DOCUMENT_BYTES = 262_144
MAX_PUSHED_BYTES = 16_384
"""Of one ad's document: it travels inside the push, and a push goes through Kafka to every box of a partition."""
MAX_DEPTH = 32
MAX_NODES = 4_096
MAX_ATTRIBUTES = 32
MAX_ATTRIBUTE_CHARS = 4_096
MAX_NAMESPACES = 64
"""Writing an ad anew takes the square of their number: 10,000 in a document of 64 ads held a process for 31 s."""

_VERSIONS = ("2", "3", "4")
_DOORS = re.compile(rb"<!\s*(?:DOCTYPE|ENTITY)", re.IGNORECASE)
_DECLARATION = re.compile(rb"\s*<\?xml\b([^>]*)\?>")
_ENCODING = re.compile(rb"encoding\s*=\s*[\"']([^\"']*)[\"']", re.IGNORECASE)
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_DURATION = re.compile(r"(\d{2}):([0-5]\d):([0-5]\d)(?:\.(\d{1,3}))?", re.ASCII)
_XINCLUDE = "{http://www.w3.org/2001/XInclude}"
_SCHEMA_ATTRIBUTES = frozenset({"schemaLocation", "noNamespaceSchemaLocation"})
# Their text is an address; every other text is searched for some.
_ADDRESS_ELEMENTS = frozenset(
    {
        "Impression", "Error", "Tracking", "ClickThrough", "ClickTracking", "CustomClick", "MediaFile", "Mezzanine",
        "InteractiveCreativeFile", "ClosedCaptionFile", "StaticResource", "IFrameResource", "JavaScriptResource",
        "ExecutableResource", "FlashResource", "Survey", "Viewable", "NotViewable", "ViewUndetermined",
        "CompanionClickThrough", "CompanionClickTracking", "NonLinearClickThrough", "NonLinearClickTracking",
        "IconClickThrough", "IconClickTracking", "IconViewTracking",
    }
)  # fmt: skip
_TRACKER_ELEMENTS = frozenset({"Impression", "Error", "Tracking", "ClickTracking", "Viewable"})
# The scheme is bounded: on a text of 200,000 times `a.` the search would else take a minute.
_LOOSE_ADDRESS = re.compile(r"(?:\b([a-z][a-z0-9+.-]{0,15}):)?//([^\s/?#\"'<>\\()]+)", re.IGNORECASE)


class VastPrice(msgspec.Struct, frozen=True, kw_only=True):
    """`<Pricing>` as written (VAST 3.0 and later); `model` in upper case: CPM, CPC, CPE or CPV."""

    model: str
    currency: str
    value: str


class VastAd(msgspec.Struct, frozen=True, kw_only=True):
    """One inline, linear ad.

    Attributes:
        ad_id: `Ad@id`.
        creative_id: What identifies the creative, best first: `UniversalAdId`, `Creative@adId`, `Creative@id`.
        duration_ms: `None` if not told.
        media: Addresses of playable media files.
        tracker_hosts: Hosts that the box calls while it displays the ad, sorted.
        hosts: Every host named anywhere in the ad, sorted.
        categories: `<Category>` codes.
        document: A VAST document of this ad alone, UTF-8.
    """

    ad_id: str | None
    creative_id: str | None
    duration_ms: int | None
    media: tuple[str, ...]
    tracker_hosts: tuple[str, ...]
    hosts: tuple[str, ...]
    advertiser: str | None
    categories: tuple[str, ...]
    price: VastPrice | None
    document: bytes

    def address(self) -> str:
        """The document as a data address, for a push.

        Raises:
            ReplyError: `CREATIVE_REJECTED`: it is larger than `MAX_PUSHED_BYTES`.
        """
        if len(self.document) > MAX_PUSHED_BYTES:
            raise _rejected(f"VAST of {len(self.document)} bytes, {MAX_PUSHED_BYTES} fit into a push")
        return "data:application/xml;base64," + base64.b64encode(self.document).decode()


AdReader = Callable[[], VastAd]


def read_vast(document: bytes, mimes: Collection[str]) -> tuple[AdReader, ...]:
    """A reader for each ad in a document; none for `<VAST/>`, the no-bid.

    Two steps, so that one ad that must be refused leaves the others alone. Each reader raises `ReplyError`
    `CREATIVE_REJECTED` for a wrapper, an address that is not https, or nothing that a box could play.

    Args:
        document: As received.
        mimes: Media types that the boxes play, lower case.

    Raises:
        ReplyError: `INVALID_RESPONSE`: no well-formed, harmless VAST document within the limits.
    """
    root = _parse(document)
    if _name(root) != "VAST":
        raise _invalid(f"the root is <{_name(root)[:40]}>, not <VAST>")
    ads = [child for child in root if _name(child) == "Ad"]
    version = root.get("version", "")
    if ads and version.partition(".")[0] not in _VERSIONS:
        raise _invalid(f"VAST version {version[:20]!r}, known are {', '.join(_VERSIONS)}")
    return tuple(_reader(root, ad, frozenset(mimes)) for ad in ads)


def _reader(root: Any, ad: Any, mimes: frozenset[str]) -> AdReader:
    return lambda: _read_ad(root, ad, mimes)


def _parse(document: bytes) -> Any:
    if len(document) > MAX_DOCUMENT_BYTES:
        raise _invalid(f"VAST of {len(document)} bytes, {MAX_DOCUMENT_BYTES} are read")
    document = document.removeprefix(_BYTE_ORDER_MARK)
    # Checked as bytes and before the parser sees them. That is sound because only UTF-8 is let through.
    if _DOORS.search(document):
        raise _invalid("VAST with a DOCTYPE or an ENTITY, the doors to XML attacks")
    _check_encoding(document)
    # Likewise as bytes: the parser keeps declarations apart from attributes, and no name can be written by references.
    if document.count(b"xmlns") > MAX_NAMESPACES:
        raise _invalid(f"VAST with more than {MAX_NAMESPACES} namespaces")
    try:
        root = etree.fromstring(document.lstrip(), _parser())
    except (etree.XMLSyntaxError, ValueError) as error:
        raise _invalid(f"no XML: {str(error)[:120]}") from None
    _check_tree(root)
    return root


def _parser() -> Any:
    """A new one for each document: a parser keeps what it has seen."""
    return etree.XMLParser(
        encoding="utf-8",
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        dtd_validation=False,
        attribute_defaults=False,
        huge_tree=False,
        recover=False,
        remove_comments=True,
        # Kept as written: trackers are full of ampersands.
        strip_cdata=False,
        collect_ids=False,
    )


def _check_encoding(document: bytes) -> None:
    """Refuse all but UTF-8: in UTF-7 or UTF-16 a DOCTYPE has other bytes, and a box may believe the declaration."""
    try:
        document.decode("utf-8", "strict")
    except UnicodeDecodeError:
        raise _invalid("VAST is not UTF-8") from None
    declaration = _DECLARATION.match(document)
    encoding = _ENCODING.search(declaration[1]) if declaration else None
    if encoding and encoding[1].strip().lower() not in {b"utf-8", b"utf8", b"us-ascii", b"ascii"}:
        raise _invalid(f"VAST in encoding {encoding[1][:20].decode()!r}, UTF-8 is read")


def _check_tree(root: Any) -> None:
    info = root.getroottree().docinfo
    if info.doctype or info.internalDTD is not None:
        raise _invalid("VAST with a DOCTYPE")
    if root.getprevious() is not None or root.getnext() is not None:
        raise _invalid("VAST with a processing instruction")
    # Depth first with the depth at hand; `iter` does not tell it, and recursion would be bounded by Python's stack.
    pending = [(root, 1)]
    nodes = 0
    while pending:
        node, depth = pending.pop()
        nodes += 1
        if nodes > MAX_NODES:
            raise _invalid(f"VAST with more than {MAX_NODES} elements")
        if depth > MAX_DEPTH:
            raise _invalid(f"VAST nested deeper than {MAX_DEPTH} levels")
        if not isinstance(node.tag, str):
            raise _invalid("VAST with a processing instruction or an entity reference")
        if node.tag.startswith(_XINCLUDE):
            raise _invalid("VAST with an XInclude")
        _check_attributes(node)
        pending.extend((child, depth + 1) for child in node)


def _check_attributes(node: Any) -> None:
    attributes = node.attrib
    if len(attributes) > MAX_ATTRIBUTES or any(len(value) > MAX_ATTRIBUTE_CHARS for value in attributes.values()):
        raise _invalid(f"<{_name(node)[:40]}> has more attributes, or longer ones, than any ad needs")


def _read_ad(root: Any, ad: Any, mimes: frozenset[str]) -> VastAd:
    if any(_name(node) == "Wrapper" for node in ad.iter()):
        raise _rejected("a VAST wrapper, and nobody resolves wrappers within an auction")
    inline = _only(ad, "InLine")
    linears = [
        (creative, linear)
        for creative in _children(inline, "Creatives", "Creative")
        for linear in _children(creative, "Linear")
    ]
    if len(linears) != 1:
        raise _rejected(f"an ad of {len(linears)} linear creatives, one is played")
    creative, linear = linears[0]
    tracker_hosts, hosts = _hosts(ad)
    media = tuple(_text(file) for file in _children(linear, "MediaFiles", "MediaFile") if _is_playable(file, mimes))
    if not media:
        raise _rejected(f"no media file that a box plays; it plays {', '.join(sorted(mimes))}")
    return VastAd(
        ad_id=ad.get("id", "").strip() or None,
        creative_id=_creative_id(creative),
        duration_ms=_duration_ms(_children(linear, "Duration")),
        media=media,
        tracker_hosts=tracker_hosts,
        hosts=hosts,
        advertiser=next((text for text in map(_text, _children(inline, "Advertiser")) if text), None),
        categories=tuple(text for text in map(_text, _children(inline, "Category")) if text),
        price=_price(_children(inline, "Pricing")),
        document=_alone(root, ad),
    )


def _hosts(ad: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Hosts of trackers, and those of everything that is or looks like an address; both sorted.

    Elements of any namespace count: a box may be less exact than we are.
    """
    trackers: set[str] = set()
    hosts: set[str] = set()
    for node in ad.iter():
        name, text = _name(node), _text(node)
        if name in _ADDRESS_ELEMENTS:
            if len(node):
                raise _rejected(f"<{name}> with elements in its address")
            if text:
                host = host_of(text)
                hosts.add(host)
                if name in _TRACKER_ELEMENTS:
                    trackers.add(host)
        else:
            hosts.update(_loose_hosts(node.text or ""))
        if node is not ad:
            hosts.update(_loose_hosts(node.tail or ""))
        for key, value in node.attrib.items():
            if _local(key) not in _SCHEMA_ATTRIBUTES:
                hosts.update(_loose_hosts(value))
    return tuple(sorted(trackers)), tuple(sorted(hosts))


def _loose_hosts(text: str) -> Iterator[str]:
    """Hosts of addresses in free text: extensions, ad parameters, HTML."""
    # JSON inside XML writes slashes as `\/`.
    for scheme, place in _LOOSE_ADDRESS.findall(text.replace("\\/", "/")) if "/" in text else ():
        host = place.rpartition("@")[2].partition(":")[0].lower()
        if scheme and (scheme.lower() != "https" or "@" in place or not is_host(host)):
            raise _rejected(f"{scheme[:20]}://{place[:60]} is no plain https address")
        if is_host(host):
            yield host


def _is_playable(file: Any, mimes: frozenset[str]) -> bool:
    kind = file.get("type", "").partition(";")[0].strip().lower()
    return kind in mimes and not file.get("apiFramework") and bool(_text(file))


def _creative_id(creative: Any) -> str | None:
    universal = (_text(node) or node.get("idValue", "") for node in _children(creative, "UniversalAdId"))
    named = (creative.get(key, "") for key in ("adId", "AdID", "id"))
    # "unknown" is what VAST 4 demands where there is no id.
    ids = (value.strip() for value in (*universal, *named))
    return next((value for value in ids if value and value.lower() != "unknown"), None)


def _duration_ms(nodes: Sequence[Any]) -> int | None:
    text = _text(nodes[0]) if nodes else ""
    if not text:
        return None
    match = _DURATION.fullmatch(text)
    if match is None:
        raise _rejected(f"duration {text[:20]!r} is not HH:MM:SS or HH:MM:SS.mmm")
    hours, minutes, seconds = int(match[1]), int(match[2]), int(match[3])
    return ((hours * 60 + minutes) * 60 + seconds) * 1_000 + int((match[4] or "").ljust(3, "0")) or None


def _price(nodes: Sequence[Any]) -> VastPrice | None:
    if not nodes:
        return None
    node = nodes[0]
    return VastPrice(model=node.get("model", "").upper(), currency=node.get("currency", ""), value=_text(node))


def _alone(root: Any, ad: Any) -> bytes:
    """The ad in a document of its own: what is around it, e.g. addresses for "no ad", is not the box's business."""
    alone = etree.Element(root.tag, {"version": root.get("version")}, nsmap=root.nsmap)
    copied = copy.deepcopy(ad)
    copied.tail = None
    # Which place it has in a break is the auction's decision.
    copied.attrib.pop("sequence", None)
    alone.append(copied)
    document: bytes = etree.tostring(alone, encoding="utf-8", xml_declaration=False)
    return document


def _only(parent: Any, name: str) -> Any:
    children = _children(parent, name)
    if len(children) != 1:
        raise _rejected(f"<{_name(parent)}> with {len(children)} <{name}>, one is needed")
    return children[0]


def _children(parent: Any, *path: str) -> list[Any]:
    """Elements at a path of local names, all in the parent's namespace."""
    found = [parent]
    space = parent.tag[: -len(_name(parent))]
    for name in path:
        found = [child for node in found for child in node if child.tag == space + name]
    return found


def _name(node: Any) -> str:
    return _local(node.tag)


def _local(name: str) -> str:
    # `etree.QName` does the same at ten times the price, and every node of every ad comes by here.
    return name.rpartition("}")[2]


def _text(node: Any) -> str:
    return (node.text or "").strip()


def _invalid(why: str) -> ReplyError:
    return ReplyError(Outcome.INVALID_RESPONSE, why)


def _rejected(why: str) -> ReplyError:
    return ReplyError(Outcome.CREATIVE_REJECTED, why)
