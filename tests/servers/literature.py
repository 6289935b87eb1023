"""Three literature services in one local server, speaking the documented forms of the real ones.

In: designed entries. Out: Europe PMC, E-utilities and Graph API answers; faults where a test asks for them.
"""

import json
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlparse
from xml.sax.saxutils import escape

DOCTYPE = (
    '<?xml version="1.0" ?>\n<!DOCTYPE PubmedArticleSet PUBLIC "-//NLM//DTD PubMedArticle, 1st January 2025//EN" '
    '"https://dtd.nlm.nih.gov/ncbi/pubmed/out/pubmed_250101.dtd">\n'
)


@dataclass(frozen=True)
class Entry:
    """One synthetic paper."""

    pmid: str
    title: str
    abstract: str
    doi: str = ""
    kinds: tuple[str, ...] = ("Journal Article",)
    markup: bool = field(default=False)  # title and abstract are markup already


def as_pubmed(entries):
    """PubmedArticleSet of EFetch."""
    articles = []
    for entry in entries:
        title, abstract = (entry.title, entry.abstract) if entry.markup else map(escape, (entry.title, entry.abstract))
        kinds = "".join(f"<PublicationType UI='D0'>{kind}</PublicationType>" for kind in entry.kinds)
        doi = f'<ArticleId IdType="doi">{entry.doi}</ArticleId>' if entry.doi else ""
        articles.append(
            f'<PubmedArticle><MedlineCitation Status="MEDLINE" Owner="NLM"><PMID Version="1">{entry.pmid}</PMID>'
            "<Article PubModel='Print'><Journal><JournalIssue><PubDate><Year>2020</Year></PubDate></JournalIssue>"
            f"<Title>Synthetic Journal</Title></Journal><ArticleTitle>{title}</ArticleTitle><Abstract>"
            f'<AbstractText Label="RESULTS">{abstract}</AbstractText></Abstract><AuthorList><Author>'
            "<LastName>Author</LastName><Initials>A</Initials></Author></AuthorList>"
            f"<PublicationTypeList>{kinds}</PublicationTypeList></Article></MedlineCitation><PubmedData>"
            f'<ArticleIdList><ArticleId IdType="pubmed">{entry.pmid}</ArticleId>{doi}</ArticleIdList></PubmedData>'
            "</PubmedArticle>"
        )
    return (DOCTYPE + "<PubmedArticleSet>" + "".join(articles) + "</PubmedArticleSet>").encode()


def as_europepmc(entries):
    """Answer of search with resultType core."""
    result = [
        {
            "id": entry.pmid,
            "source": "MED",
            "pmid": entry.pmid,
            "title": entry.title,
            "authorString": "Author A, Author B.",
            "journalInfo": {"yearOfPublication": 2020, "journal": {"title": "Synthetic Journal"}},
            "pubYear": "2020",
            "abstractText": f"<h4>Results</h4>{entry.abstract}",
            "pubTypeList": {"pubType": list(entry.kinds)},
            **({"doi": entry.doi} if entry.doi else {}),
        }
        for entry in entries
    ]
    return json.dumps({"version": "6.9", "hitCount": len(result), "resultList": {"result": result}}).encode()


def as_semanticscholar(entries):
    """Answer of paper/search."""
    data = [
        {
            "paperId": f"s2-{entry.pmid}",
            "externalIds": {"PubMed": entry.pmid, **({"DOI": entry.doi.upper()} if entry.doi else {})},
            "title": entry.title,
            "abstract": entry.abstract,
            "year": 2020,
            "venue": "Synthetic Journal",
            "authors": [{"authorId": "1", "name": "Author A"}],
        }
        for entry in entries
    ]
    return json.dumps({"total": len(data), "offset": 0, "data": data}).encode()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        self._serve(parse_qs(urlparse(self.path).query))

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        self._serve(parse_qs(body))

    def _serve(self, asked):
        server, path = self.server, urlparse(self.path).path
        name = path.rsplit("/", 1)[-1]
        source = {"esearch.fcgi": "pubmed", "efetch.fcgi": "pubmed"}.get(name)
        source = source or ("semanticscholar" if path.endswith("/paper/search") else "europepmc")
        with server.lock:
            server.requests.append((source, self.path, asked, dict(self.headers)))
            faults = server.faults.get(source, [])
            fault = faults.pop(0) if faults else None
        time.sleep(server.delay_s.get(source, 0.0))
        if fault is not None:
            self._answer(*fault)
            return
        entries = server.entries.get(source, ())
        if name == "esearch.fcgi":
            ids = [entry.pmid for entry in entries][: int(asked["retmax"][0])]
            self._answer(
                200, json.dumps({"header": {}, "esearchresult": {"count": str(len(ids)), "idlist": ids}}).encode()
            )
        elif name == "efetch.fcgi":
            wanted = asked["id"][0].split(",")
            chosen = [entry for entry in entries if entry.pmid in wanted]
            self._answer(200, as_pubmed([*chosen, *server.unasked]))
        else:
            form = {"europepmc": as_europepmc, "semanticscholar": as_semanticscholar}[source]
            self._answer(200, form(entries))

    def _answer(self, status, body, headers=None):
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        if "Content-Length" not in (headers or {}):
            self.send_header("Content-Length", str(len(body)))
        with suppress(ConnectionError):
            self.end_headers()
            self.wfile.write(body)
        self.close_connection = "Content-Length" in (headers or {})

    def log_message(self, *args):
        """Stay silent."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True


@contextmanager
def literature_server(entries=()):
    """A running server; every source has ``entries``.

    ``.entries`` source -> entries, ``.unasked`` entries that EFetch returns beside those asked for, ``.faults`` source
    -> list of (status, body[, headers]) for the next requests, ``.delay_s`` source -> seconds, ``.requests`` what came.
    ``.settings`` are the addresses for LiteratureSettings.
    """
    server = _Server(("127.0.0.1", 0), _Handler)
    server.lock, server.requests, server.faults, server.delay_s, server.unasked = threading.Lock(), [], {}, {}, []
    server.entries = {name: list(entries) for name in ("pubmed", "europepmc", "semanticscholar")}
    root = f"http://127.0.0.1:{server.server_address[1]}"
    server.settings = {f"{name}_url": f"{root}/{name}" for name in server.entries}
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
