"""Command-line flags of the model, shared by this package's programs; each is named like the manifest's field.

In: a parser. Out: the same parser, its defaults the manifest's.
"""

from __future__ import annotations

import argparse
from typing import Any

from inference.manifest import DEVICES, MODES, OUTPUT_MODES, PRECISIONS, Manifest

FIELDS = (
    "diffusion_steps",
    "batch_size",
    "prompt_ratio",
    "context_ratio",
    "context_ratio_min",
    "mode",
    "output_mode",
    "fixed_prompt",
    "precision",
    "device",
    "threads",
)
_FIXED_HELP = "the same prompt cells in every window and step: faster, fewer prompt cells are seen"
_OUTPUT_HELP = "counts, their means, or counts by the reference's random stream (default: %(default)s)"


def add_model_flags(parser: argparse.ArgumentParser, *, steps: str = "--diffusion-steps") -> None:
    """Add the flags that say how the model is run; ``steps`` names the one for the number of steps."""
    group = parser.add_argument_group("the model")
    add = group.add_argument
    add(steps, dest="diffusion_steps", type=positive, help="steps of the generation (default: %(default)s)")
    add("--batch-size", type=positive, help="windows of cells at once (default: %(default)s)")
    add("--prompt-ratio", type=float, help="share of a window that is fixed prompt (default: %(default)s)")
    add("--context-ratio", type=float, help="share of further context, last step (default: %(default)s)")
    add("--context-ratio-min", type=float, help="the same at the first step (default: %(default)s)")
    add("--mode", choices=MODES, help="rewrite cells little by little, or all each step (default: %(default)s)")
    add("--output-mode", choices=OUTPUT_MODES, help=_OUTPUT_HELP)
    add("--fixed-prompt", action="store_true", help=_FIXED_HELP)
    add("--precision", choices=PRECISIONS, help="of the arithmetic (default: %(default)s)")
    add("--device", help=f"{DEVICES} (default: %(default)s)")
    add("--threads", type=positive, help="processor threads (default: as many as there are)")
    parser.set_defaults(**{name: Manifest.__dataclass_fields__[name].default for name in FIELDS})


def model_fields(arguments: argparse.Namespace) -> dict[str, Any]:
    """Fields of a manifest, as given by :func:`add_model_flags`."""
    return {name: getattr(arguments, name) for name in FIELDS}


def positive(text: str) -> int:
    """Whole number of at least 1; argparse reports what else is given."""
    value = int(text)
    if value < 1:
        msg = f"{text} is below 1"
        raise argparse.ArgumentTypeError(msg)
    return value
