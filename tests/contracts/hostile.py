"""Replies that nobody honest sends. Whatever the dialect, none of them may become a bid or more than a reply error.

Bodies that are too large, or grow when they are unpacked, never reach an adapter: the caller cuts them off.
"""

from __future__ import annotations

DEEP = 100_000
WIDE = 60_000

JSON_BODIES: dict[str, bytes] = {
    "deep arrays": b"[" * DEEP,
    "deep arrays, closed": b"[" * DEEP + b"]" * DEEP,
    "deep objects": b'{"a":' * DEEP,
    "deep in an ignored field": b'{"ignored":' + b"[" * 2_000 + b"]" * 2_000 + b"}",
    "deep in ads": b'{"ads":[' + b"[" * 2_000 + b"]" * 2_002 + b"}",
    "deep in seatbid": b'{"seatbid":[{"bid":[' + b'{"ext":' * 500 + b"1" + b"}" * 500 + b"]}]}",
    "wide array": b"[" + b"1," * WIDE + b"1]",
    "wide object": b"{" + b",".join(b'"k%d":1' % i for i in range(30_000)) + b"}",
    "many empty objects": b'{"seatbid":[' + b"{}," * 50_000 + b"{}]}",
    "quotes that never end": b'"' * 65_537,
    "escaped quotes that never end": b'{"a":"' + b'\\"' * 60_000,
    "backslashes that never end": b'{"a":"' + b"\\" * 65_535,
    "brackets in a string that never ends": b'{"a":"' + b"[{" * 60_000,
    "endless number": b'{"price":' + b"9" * 200_000 + b"}",
    "endless fraction": b'{"price":0.' + b"0" * 200_000 + b"1}",
    "exponent bomb": b'{"price":1e999999999,"ad":"x","currency":"USD"}',
    "negative exponent bomb": b'{"price":1e-999999999999999999999}',
    "not a number": b'{"price":NaN,"ad":"x","currency":"USD"}',
    "infinity": b'{"price":-Infinity,"ad":"x","currency":"USD"}',
    "hexadecimal": b'{"price":0x10,"ad":"x","currency":"USD"}',
    "leading zeros": b'{"price":007,"ad":"x","currency":"USD"}',
    "lone surrogate": b'{"ad":"\\ud800","price":1,"currency":"USD"}',
    "surrogates in the wrong order": b'{"ad":"\\udc00\\ud800","price":1,"currency":"USD"}',
    "surrogate as raw bytes": b'{"ad":"\xed\xa0\x80","price":1,"currency":"USD"}',
    "overlong UTF-8": b'{"ad":"\xc0\xaf","price":1,"currency":"USD"}',
    "UTF-16": '{"ad":"x","price":1,"currency":"USD"}'.encode("utf-16"),
    "UTF-32": '{"ad":"x","price":1,"currency":"USD"}'.encode("utf-32"),
    "byte order mark": b'\xef\xbb\xbf{"ad":"x","price":1,"currency":"USD"}',
    "NUL bytes": b"\x00" * 1_000,
    "NUL behind the document": b"{}\x00",
    "two documents": b'{"ad":"x","price":1,"currency":"USD"}{"ad":"y"}',
    "trailing comma": b'{"ad":"x","price":1,"currency":"USD",}',
    "comment": b'{"ad":"x",/* */"price":1,"currency":"USD"}',
    "single quotes": b"{'ad':'x','price':1,'currency':'USD'}",
    "null": b"null",
    "a string": b'"{\\"ad\\":1}"',
    "a number": b"1",
    "white space": b" \n\t\r" * 1_000,
    "nothing": b"",
    "HTML": b"<!doctype html><title>502 Bad Gateway</title>",
    "gzip": bytes.fromhex("1f8b08000000000000ff"),
}

STRINGS: dict[str, str] = {
    "script": "javascript:alert(1)",
    "markup": "<script>alert(1)</script>",
    "line break": "https://cdn.example.com/x\r\nHost: elsewhere",
    "user name": "https://cdn.example.com@elsewhere.example/",
    "backslash": "https://cdn.example.com\\@elsewhere.example/",
    "loopback": "https://127.0.0.1/x",
    "loopback as a number": "https://2130706433/x",
    "loopback in hexadecimal": "https://0x7f.0.0.1/x",
    "IPv6 loopback": "https://[::1]/x",
    "metadata service": "https://169.254.169.254/latest/meta-data",
    "bare word": "https://intranet/x",
    "file": "file:///etc/passwd",
    "data": "data:text/html;base64,PHNjcmlwdD4=",
    "no scheme": "//elsewhere.example/x",
    "broken brackets": "https://[elsewhere.example/x",
    "port out of range": "https://cdn.example.com:99999/x",
    "full-width host": "https://\uff45\uff56\uff49\uff4c.example/x",
    "percent in the host": "https://%65vil.example/x",
    "template": "{{7*7}}${AUCTION_PRICE}",
    "NUL": "\x00",
    "right to left": "\u202eelpmaxe",
    "very long": "x" * 100_000,
    "long address": "https://cdn.example.com/" + "x" * 10_000,
    "format string": "%s%n{0.__class__}",
}
"""Values for any text of a good reply."""

_AD = (
    '<Ad id="1"><InLine><AdSystem>x</AdSystem><AdTitle>%s</AdTitle><Impression>%s</Impression>'
    '<Pricing model="CPM" currency="USD">5</Pricing>%s<Creatives><Creative id="c"><Linear><Duration>00:00:15</Duration>'
    '<MediaFiles><MediaFile delivery="progressive" type="video/mp4" width="1" height="1">%s</MediaFile></MediaFiles>'
    "</Linear></Creative></Creatives></InLine></Ad>"
)
TRACKER = "https://track.example.com/i"
MEDIA = "https://cdn.example.com/a.mp4"


def vast(head: str = "", title: str = "t", tracker: str = TRACKER, extra: str = "", media: str = MEDIA) -> str:
    """A document that is good unless an argument is not."""
    return f'{head}<VAST version="4.2">{_AD % (title, tracker, extra, media)}</VAST>'


def _laughs() -> str:
    entities = '<!ENTITY l0 "ha">' + "".join(f'<!ENTITY l{level} "{f"&l{level - 1};" * 10}">' for level in range(1, 10))
    return f"<!DOCTYPE VAST [{entities}]>"


def vast_documents(file: str = "/etc/passwd", url: str = "http://127.0.0.1:9/x") -> dict[str, bytes]:
    """Hostile XML.

    Args:
        file: Path that the documents try to read.
        url: Address that they try to fetch.
    """
    texts = {
        "external entity from a file": vast(f'<!DOCTYPE VAST [<!ENTITY x SYSTEM "file://{file}">]>', title="&x;"),
        "external entity from the network": vast(f'<!DOCTYPE VAST [<!ENTITY x SYSTEM "{url}">]>', title="&x;"),
        "external entity in an address": vast(
            f'<!DOCTYPE VAST [<!ENTITY x SYSTEM "file://{file}">]>', tracker="https://track.example.com/&x;"
        ),
        "public identifier": vast(f'<!DOCTYPE VAST PUBLIC "-//x//EN" "{url}">'),
        "external DTD": vast(f'<!DOCTYPE VAST SYSTEM "{url}">'),
        "external DTD in a file": vast(f'<!DOCTYPE VAST SYSTEM "file://{file}">'),
        "parameter entity": vast(f'<!DOCTYPE VAST [<!ENTITY % p SYSTEM "{url}"> %p;]>'),
        "parameter entity out of band": vast(
            f'<!DOCTYPE VAST [<!ENTITY % f SYSTEM "file://{file}">'
            f"<!ENTITY % e \"<!ENTITY &#37; s SYSTEM '{url}?%f;'>\">%e;%s;]>"
        ),
        "billion laughs": vast(_laughs(), title="&l9;"),
        "quadratic blow-up": vast(f'<!DOCTYPE VAST [<!ENTITY a "{"a" * 50_000}">]>', title="&a;" * 2_000),
        "internal entity": vast('<!DOCTYPE VAST [<!ENTITY a "x">]>', title="&a;"),
        "entity in an attribute default": vast('<!DOCTYPE VAST [<!ATTLIST MediaFile apiFramework CDATA "VPAID">]>'),
        "empty DOCTYPE": vast("<!DOCTYPE VAST>"),
        "DOCTYPE in lower case": vast("<!doctype VAST>"),
        "DOCTYPE with white space": vast("<! DOCTYPE VAST>"),
        "undefined entity": vast(title="&undefined;"),
        "XInclude of a file": vast(
            extra=f'<xi:include xmlns:xi="http://www.w3.org/2001/XInclude" parse="text" href="file://{file}"/>'
        ),
        "style sheet": vast(f'<?xml-stylesheet type="text/xsl" href="{url}"?>'),
        "processing instruction inside": vast(extra='<?php system("id"); ?>'),
        "processing instruction behind": vast() + "<?x y?>",
        "wrapper": '<VAST version="4.2"><Ad id="1"><Wrapper><VASTAdTagURI>https://a.example/</VASTAdTagURI></Wrapper></Ad></VAST>',
        "wrapper inside an inline ad": vast(extra="<Wrapper/>"),
        "address in CDATA that is not https": vast(tracker="<![CDATA[http://track.example.com/i]]>"),
        "address broken by CDATA": vast(tracker="https://track.example.com<![CDATA[@elsewhere.example/]]>"),
        "address broken by a comment": vast(tracker="https://track.example.com<!-- -->@elsewhere.example/"),
        "address broken by an element": vast(tracker="https://track.example.com/<b/>x"),
        "address in character references": vast(tracker="&#106;avascript:alert(1)"),
        "script in CDATA": vast(tracker="<![CDATA[javascript:alert(1)]]>"),
        "scheme without a host": vast(media="https:///a.mp4"),
        "media on this machine": vast(media="https://localhost/a.mp4"),
        "media in the viewer's network": vast(media="https://192.168.0.1/a.mp4"),
        "media from a file": vast(media="file:///etc/passwd"),
        "media as data": vast(media="data:video/mp4;base64,AAAA"),
        "tracker in a foreign namespace": vast(extra=f'<y:Tracking xmlns:y="urn:y">{url}</y:Tracking>'),
        "address in an attribute": vast(extra=f'<Extensions><Extension href="{url}"/></Extensions>'),
        "address in JSON": vast(extra='<AdParameters>{"u":"http:\\/\\/elsewhere.example\\/x"}</AdParameters>'),
        "text that a careless search never finishes": vast(title="a." * 120_000 + "//", tracker="http://x.example/"),
        "no media": vast().replace("video/mp4", "video/x-flv"),
        "interactive media": vast().replace('type="video/mp4"', 'type="video/mp4" apiFramework="VPAID"'),
        "two linear creatives": vast().replace("<Creatives>", "<Creatives><Creative><Linear/></Creative>"),
        "huge attribute": vast(extra=f'<Extension a="{"x" * 100_000}"/>'),
        "many attributes": vast(extra="<Extension " + " ".join(f'a{i}="1"' for i in range(5_000)) + "/>"),
        "duplicate attributes": vast(extra='<Extension a="1" a="2"/>'),
        "many elements": vast(extra="<Extension/>" * 15_000),
        "deep within what the parser allows": vast(extra="<e>" * 200 + "</e>" * 200),
        "deep beyond what the parser allows": "<VAST>" * 30_000,
        "character that XML forbids": vast(title="&#0;"),
        "control character": vast(title="\x08"),
        "declaration of UTF-16": vast('<?xml version="1.0" encoding="UTF-16"?>'),
        "declaration of UTF-7": vast('<?xml version="1.0" encoding="UTF-7"?>'),
        "declaration of an unheard encoding": vast('<?xml version="1.0" encoding="x-none"?>'),
        "declaration in single quotes": vast("<?xml version='1.0' encoding='ISO-8859-1'?>"),
        "declaration behind white space": vast(' \n<?xml version="1.0" encoding="UTF-16"?>'),
        "negative duration": vast().replace("00:00:15", "-0:00:15"),
        "duration without end": vast().replace("00:00:15", "00:00:99999999999999999999"),
        "version of the future": vast().replace("4.2", "9.0"),
        "no version": vast().replace(' version="4.2"', ""),
        "root in lower case": vast().replace("VAST", "vast"),
        "truncated": vast()[:-20],
        "text alone": "just text",
    }
    documents = {name: text.encode() for name, text in texts.items()}
    doors = f'<!DOCTYPE VAST [<!ENTITY x SYSTEM "file://{file}">]>'
    declared = '<?xml version="1.0" encoding="{}"?>' + doors + vast(title="&x;")
    for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-7", "cp037", "iso-8859-1"):
        documents[f"DOCTYPE in {encoding}, declared"] = declared.format(encoding.upper()).encode(encoding)
        documents[f"DOCTYPE in {encoding}, silent"] = (doors + vast(title="&x;")).encode(encoding)
    # In UTF-7 no byte of it says DOCTYPE.
    hidden = '<?xml version="1.0" encoding="UTF-7"?>' + vast(doors, title="+ACY-x;").replace("<!", "+ADwAIQ-")
    documents["DOCTYPE hidden in UTF-7"] = hidden.encode()
    documents["Latin-1 without a word"] = vast(title="caf\u00e9").encode("latin-1")
    documents["UTF-8 with an overlong bracket"] = vast().encode().replace(b"<AdTitle>", b"\xc0\xbcAdTitle>")
    return documents
