"""Make foreign text plain: no markup, single spaces, limited lengths; identifiers in one form.

In: strings as services give them. Out: plain text, DOIs, PMIDs, years.
"""

from __future__ import annotations

import html
import re
import unicodedata

MAX_TITLE, MAX_ABSTRACT, MAX_NAME = 1_000, 20_000, 200
_HEADING = re.compile(r"</(?:h\d|title|jats:title)\s*>", re.IGNORECASE)
_TAG = re.compile(
    r"</?(?:jats:)?(?:h\d|title|p|div|span|sec|i|em|b|bold|italic|strong|u|sub|sup|sc|br|a|list|list-item|img|script|style"
    r"|iframe|svg|form)\b[^<>]*>",
    re.IGNORECASE,
)
_DOI = re.compile(r"10\.\d{4,9}/[^\s\"'<>\\]+")
_NOTICE = r"(?:article|paper|publication|chapter|manuscript|study|notes?|notices?|statement)"
# Retraction and withdrawal are also what axons and patients do: the form of a notice must be there.
_RETRACTED_TITLE = re.compile(
    rf"^\W*(?:(?:editorial|partial|full|author'?s?)\s+)?(?:(?:statement|notice)\s+of\s+(?:the\s+)?)?"
    rf"(?:retracted|retraction|withdrawn|withdrawal)(?:\s+(?:of\s+)?{_NOTICE})?\s*"
    rf"(?:[:\].,)|]|\W*$|\s-\s|[\u2013\u2014]|\s+(?:to|of|for|on)\s*[:\"'\u201c\u2018\u00ab])|"
    rf"^\W*(?:retraction|withdrawal)\s+(?:{_NOTICE}\s+(?:to|of|for|on)|for\s+[^,]+\bet al)\b|"
    rf"^\W*(?:this\s+)?{_NOTICE}\s+(?:(?:has|have)\s+been\s+|was\s+|is\s+)?(?:retracted|withdrawn)\b|"
    rf"[\[(](?:this\s+)?(?:{_NOTICE}\s+)?(?:has\s+been\s+|was\s+)?(?:retracted|withdrawn|retraction)(?:\s+{_NOTICE})?[^\])]{{0,40}}[\])]\W*$|"
    rf"(?:[:.]|\s[-\u2013\u2014])\s*(?:retracted|retraction|withdrawn)(?:\s+{_NOTICE})?\W*$",
    re.IGNORECASE,
)
_RETRACTED_TYPES = frozenset(
    {"retracted publication", "retraction of publication", "retraction notice", "retracted article", "retraction"}
)


def plain(value: object, *, limit: int = MAX_NAME) -> str:
    """Return text without tags, entities and control characters; empty for anything else than text."""
    if not isinstance(value, str):
        return ""
    text = _TAG.sub(" ", _HEADING.sub(": ", value[: limit * 4]))
    text = _TAG.sub(" ", html.unescape(text))
    text = "".join(" " if unicodedata.category(letter) in ("Cc", "Cf", "Cs") else letter for letter in text)
    text = " ".join(unicodedata.normalize("NFC", text).split())
    return re.sub(r"\s+([.,;:)])", r"\1", text)[:limit].strip()


def doi(value: object) -> str | None:
    """Return a DOI in lower case and without its address; None for anything else."""
    if not isinstance(value, str):
        return None
    found = _DOI.fullmatch(re.sub(r"^\s*(?:https?://(?:dx\.)?doi\.org/|doi:)\s*", "", value.strip().lower()))
    return found.group().rstrip(".") if found else None


def pmid(value: object) -> str | None:
    """Return a PubMed id, digits without leading zeros; None for anything else."""
    text = str(value).strip() if isinstance(value, (str, int)) and not isinstance(value, bool) else ""
    return text.lstrip("0") or None if re.fullmatch(r"\d{1,9}", text, re.ASCII) else None


def paper_id(pmid: str | None, doi: str | None, *, otherwise: str) -> str:
    """Return the id of a paper: its PubMed id, else its DOI, else what its source calls it."""
    if pmid:
        return f"pmid:{pmid}"
    return f"doi:{doi}" if doi else otherwise


def year(value: object) -> int | None:
    """Return the first year of four digits; None where there is none."""
    found = re.search(r"\b(1[89]\d\d|2[01]\d\d)\b", str(value))
    return int(found.group()) if found else None


def is_retracted(title: str, kinds: list[str]) -> bool:
    """Whether title or publication types say that the paper was retracted, or that it is a notice of retraction."""
    return bool(_RETRACTED_TITLE.search(title)) or any(kind.casefold().strip() in _RETRACTED_TYPES for kind in kinds)


def title_key(title: str) -> str:
    """Return the title by which papers without a common id are recognised: letters and digits only."""
    return re.sub(r"[\W_]+", "", title.casefold())
