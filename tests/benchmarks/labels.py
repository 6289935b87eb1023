"""Row terms.resolve: labels looked up among 50,000 names that a user added, beside the packaged tables and ontologies.

In: a folder. Out: a row for ``run.py``. What is measured is a process of its own (``labels.py FOLDER`` prints JSON), so
that the first answer includes all that is read for it.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

N_TREATMENTS, N_LABELS = 16_700, 200


def add_names(folder):
    """Add a table of treatments with three names each, as ``haystack knowledge add`` does."""
    from haystack_kernel.knowledge.additions import add_knowledge
    from haystack_kernel.knowledge.genes import load_genes

    genes = sorted(load_genes().coding)[:N_TREATMENTS]
    lines = [f"{gene} degrader {n}\tPROTAC-{gene}-{n}|anti-{gene} agent {n}\t{gene}" for n, gene in enumerate(genes)]
    table = Path(folder) / "degraders.tsv"
    table.write_text("\n".join(["name\tsynonyms\ttarget", *lines]) + "\n", encoding="utf-8")
    add_knowledge(table, folder=Path(folder) / "knowledge")


def measure(folder):
    """Seconds to load, to answer first, and for each of many labels, known and unknown; and of rapidfuzz beside it."""
    from rapidfuzz import fuzz, process

    from haystack_kernel.knowledge import load_knowledge, resolve

    started = time.perf_counter()
    known = load_knowledge(Path(folder) / "knowledge")
    load_s = time.perf_counter() - started
    started = time.perf_counter()
    resolve("no such treatment", kind="perturbation", knowledge=known)
    first_s = time.perf_counter() - started
    names = [text for entry in known.perturbations.values() for text in (entry.name, *entry.synonyms)]
    there = [name.lower() for name in names[:: len(names) // N_LABELS]][:N_LABELS]
    strange = [f"{name[::-1]} {n}" for n, name in enumerate(there)]
    found = {}
    for what, labels in (("known_ms", there), ("unknown_ms", strange)):
        resolve(labels[0], kind="perturbation", knowledge=known)
        started = time.perf_counter()
        for label in labels:
            resolve(label, kind="perturbation", knowledge=known)
        found[what] = (time.perf_counter() - started) / len(labels) * 1000
    started = time.perf_counter()
    for label in strange[:10]:
        process.extract(label, names, scorer=fuzz.WRatio, limit=5)
    return {"names": len(names), "load_s": load_s, "first_s": first_s, **found}, {
        "rapidfuzz_wratio_ms": (time.perf_counter() - started) / 10 * 1000
    }


def resolve_labels(folder):
    """One row: labels among 50,000 names of a user, against rapidfuzz's best scorer over the same names."""
    add_names(folder)
    done = subprocess.run([sys.executable, __file__, folder], capture_output=True, text=True, check=True)
    ours, reference = json.loads(done.stdout)
    is_quick = ours["load_s"] <= 1 and ours["first_s"] <= 0.3
    return {
        "work": f"labels among {ours['names']:,} names of treatments, 50,000 of them added by the user",
        "ours": ours,
        "reference": reference,
        "ratio": reference["rapidfuzz_wratio_ms"] / ours["unknown_ms"],
        "goal": "load <= 1 s, first <= 0.3 s, then <= 5 ms a label",
        "met": is_quick and max(ours["known_ms"], ours["unknown_ms"]) <= 5,
    }


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1])))
