"""How near each engine comes to measured responses of a file that it could not see: a back-test in one command.

In: an h5ad of control and treated cells. Out: Markdown tables, one row per evidence distance and engine, then the
intervals with their coverage. Splits, truth and metrics are those of ``haystack backtest``.
"""

import argparse
import resource
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

import pandas as pd

from haystack_kernel.atlas import build_atlas, load_mapping
from haystack_kernel.backtest.calibrate import covered_interval
from haystack_kernel.backtest.work import HELD, run_backtest
from haystack_kernel.config.settings import load_settings
from haystack_kernel.knowledge import load_knowledge
from haystack_kernel.progress import stream_progress

SHOWN = ("n", "pearson", "clean", "cosine", "rmse", "overlap", "direction", "discrimination", "anchored_r")


def markdown(table):
    """A table as Markdown, numbers with two decimals."""
    lines = [f"| {' | '.join(table.columns)} |", f"|{'---|' * len(table.columns)}"]
    for row in table.itertuples(index=False):
        cells = ["-" if pd.isna(one) else f"{one:.2f}" if isinstance(one, float) else str(one) for one in row]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def coverage(tested):
    """One row per engine and evidence distance: the 80 % interval, and how many pairs lay inside without their own."""
    rows = []
    for engine, calibration in tested.calibrations.items():
        for one in calibration.strata:
            low, high = covered_interval(one.n_covered, one.n_checked) if one.n_checked else (float("nan"),) * 2
            share = one.n_covered / one.n_checked if one.n_checked else float("nan")
            rows.append(
                {
                    "engine": engine,
                    "evidence": one.evidence,
                    "pairs": one.n_pairs,
                    "treatments": one.n_perturbations,
                    "method": one.method,
                    "covered": share,
                    "from": low,
                    "to": high,
                }
            )
    return pd.DataFrame(rows)


def main():
    """Build the atlas, work the back-test, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("h5ad", help="e.g. kang2018_ifnb_public.h5ad")
    parser.add_argument("--type", default="cytokine", choices=("cytokine", "drug", "genetic"), help="of the treatments")
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("--held", nargs="+", default=list(HELD), choices=HELD)
    parser.add_argument("--engines", nargs="+", default=["none", "mean", "shift", "weighted", "stack"])
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", help="keep the files here; the same command goes on where it was stopped")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() if options.folder is None else nullcontext(options.folder) as name:
        folder = Path(name).absolute()
        settings = load_settings(storage=str(folder), atlas_root=str(folder / "atlases"), cache=str(folder / "cache"))
        columns = {"perturbation_column": "perturbation", "control": ["control"], "perturbation_type": options.type}
        mapping = load_mapping("cellxgene", **columns)
        if not (folder / "atlases").exists():
            build_atlas(
                options.h5ad, name="tested", root=settings.atlas_root, mapping=mapping, knowledge=load_knowledge()
            )
        began = time.monotonic()
        tested = run_backtest(
            "tested",
            n_pairs=options.pairs,
            held=options.held,
            engines=options.engines,
            workers=options.workers,
            seed=options.seed,
            settings=settings,
            progress=stream_progress(sys.stderr),
            **({"model": "demo"} if "stack" in options.engines else {}),
        )
        seconds = time.monotonic() - began
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu, peak = sum(one.ru_utime + one.ru_stime for one in used), max(one.ru_maxrss for one in used) / 2**20
    print(f"{len(tested.plan.pairs)} pairs: {seconds:.0f} s, {cpu:.0f} s of processors, {peak:.2f} GiB a process\n")
    summary = tested.summary
    print(markdown(summary[["evidence", "engine", *SHOWN]]))
    print(f"\n{markdown(coverage(tested))}")
    for row in summary[["evidence", "not_told"]].drop_duplicates().itertuples(index=False):
        print(f"\n{row.evidence}: cannot tell a replicate from the mean response: {row.not_told or 'none'}")
    for row in tested.failures.itertuples(index=False):
        print(
            f"\n{row.perturbation} in {row.cell_type}, {row.held} held out, {row.engine or 'all engines'}: {row.reason}"
        )


if __name__ == "__main__":
    main()
