"""Command-line flags of the model, shared by the programs of this package and named like the manifest's fields.

In: a parser. Out: the same parser with these flags; defaults are those of the manifest.
"""

from __future__ import annotations

import argparse
from typing import Any

from inference.manifest import DEVICES, MODEL_ENGINE, MODES, OUTPUT_MODES, PRECISIONS, Manifest

FIELDS = (
    "diffusion_steps",
    "batch_size",
    "prompt_ratio",
    "context_ratio",
    "context_ratio_min",
    "mode",
    "output_mode",
    "precision",
    "device",
    "threads",
)
DEFAULT_ENGINE = "weighted"  # where no model is given
_OUTPUT_HELP = "counts, their means, or counts from the reference's random stream (default: %(default)s)"


def default_engine(model: str | None) -> str:
    """Engine of a command line that names none."""
    return MODEL_ENGINE if model else DEFAULT_ENGINE


def add_model_flags(parser: argparse.ArgumentParser, *, steps: str = "--diffusion-steps") -> None:
    """Add the flags for running the model; ``steps`` is the name of the flag for the number of steps."""
    group = parser.add_argument_group("the model")
    add = group.add_argument
    add(steps, dest="diffusion_steps", type=positive, help="number of generation steps (default: %(default)s)")
    add("--batch-size", type=positive, help="windows of cells computed at once (default: %(default)s)")
    add(
        "--prompt-ratio",
        type=float,
        help="share of a window for prompt cells that attend only to each other (default: %(default)s)",
    )
    add(
        "--context-ratio",
        type=float,
        help="share of a window for further context, at the last step (default: %(default)s)",
    )
    add("--context-ratio-min", type=float, help="share for further context at the first step (default: %(default)s)")
    add(
        "--mode", choices=MODES, help="mdm rewrites some cells in each step, vanilla all of them (default: %(default)s)"
    )
    add("--output-mode", choices=OUTPUT_MODES, help=_OUTPUT_HELP)
    add("--precision", choices=PRECISIONS, help="precision of the arithmetic (default: %(default)s)")
    add("--device", help=f"device: {DEVICES} (default: %(default)s)")
    add("--threads", type=positive, help="number of processor threads (default: torch decides)")
    parser.set_defaults(**{name: Manifest.__dataclass_fields__[name].default for name in FIELDS})


def model_fields(arguments: argparse.Namespace) -> dict[str, Any]:
    """Fields of a manifest from the flags of :func:`add_model_flags`."""
    return {name: getattr(arguments, name) for name in FIELDS}


def positive(text: str) -> int:
    """Parse a whole number of at least 1; argparse reports anything else."""
    value = int(text)
    if value < 1:
        msg = f"{text} is below 1"
        raise argparse.ArgumentTypeError(msg)
    return value
