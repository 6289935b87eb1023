"""The program for checkpoints: convert one, describe one, or predict with one for every value of a column.

In: ``convert FILE OUT``, ``info FILE`` or ``generate --checkpoint …``; every address may be local or gs://.
Out: files; progress on stderr, one JSON line on stdout. Exit codes: 0 done, 2 wrong usage or input, 3 storage failed,
130 interrupted, 143 ended by SIGTERM (run ``generate`` again to finish the rest).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference.apart import start_apart
from inference.errors import EngineError, InputError, StorageError, UriError
from inference.flags import add_model_flags, model_fields
from inference.imports import load_modules, wait_passively
from inference.manifest import Manifest, ManifestError, check_manifest
from inference.stop import Stop, StoppedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

DONE, USAGE, STORAGE, INTERRUPTED, STOPPED = 0, 2, 3, 130, 143
PRECISIONS = ("fp32", "fp16", "bf16")

_IGNORED = ("num_workers", "mask_rate")  # flags of the reference's command line that are accepted without effect
_FILE_HELP = "a .ckpt, .pt or .safetensors file: path or gs:// address, as for all files below"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    wait_passively()
    arguments = _parser().parse_args(argv)
    run: Callable[..., dict[str, Any]] = arguments.run
    stop = Stop()
    try:
        with stop.listening(), tempfile.TemporaryDirectory(prefix="haystack-") as name:
            facts = run(arguments, folder=Path(name), stop=stop)
    except StoppedError:
        _say("stopped on request; run again to finish the rest")
        return STOPPED
    except KeyboardInterrupt:
        _say("interrupted; run again to finish the rest")
        return INTERRUPTED
    except (InputError, EngineError, UriError, ManifestError) as error:
        _say(f"error: {error}")
        return USAGE
    except StorageError as error:
        _say(f"error: {error}")
        return STORAGE
    sys.stdout.write(json.dumps(facts, ensure_ascii=False) + "\n")
    return DONE


def _convert(arguments: argparse.Namespace, *, folder: Path, stop: Stop) -> dict[str, Any]:
    from inference.engines import require_packages

    require_packages()
    from inference.convert import Conversion, convert

    asked = Conversion(
        source=arguments.file,
        target=arguments.output,
        precision=arguments.precision,
        genelist=arguments.genelist,
        is_trusted=arguments.trust_pickle,
        licence=arguments.licence,
        citation=arguments.citation,
    )
    return convert(asked, folder=folder, say=_say)


def _info(arguments: argparse.Namespace, *, folder: Path, stop: Stop) -> dict[str, Any]:
    from inference.engines import require_packages

    require_packages()
    from inference.convert import describe

    return describe(arguments.file, genelist=arguments.genelist, folder=folder)


def _generate(arguments: argparse.Namespace, *, folder: Path, stop: Stop) -> dict[str, Any]:
    start = time.monotonic()
    for name in _IGNORED:
        if getattr(arguments, name) is not None:
            _say(f"--{name.replace('_', '-')} has no effect here and is ignored")
    fields = model_fields(arguments)
    manifest = Manifest(tasks=(), model=arguments.checkpoint, genelist=arguments.genelist, **fields)
    check_manifest(manifest)
    with start_apart() as apart:  # before anything else, as loading torch takes the longest
        load_modules(["inference.split"])
        from inference.engines import Engines
        from inference.split import SplitRequest, SplitRun

        progress = _say if arguments.show_progress else None
        engines = Engines(manifest, folder=folder, progress=progress, apart=apart)
        asked = SplitRequest(
            base=arguments.base_adata,
            test=arguments.test_adata,
            genelist=arguments.genelist,
            output_dir=arguments.output_dir,
            column=arguments.split_column,
            values=tuple(arguments.split_values) if arguments.split_values else None,
            gene_column=arguments.gene_name_col,
            is_concatenated=arguments.concatenate,
            seed=arguments.random_seed,
        )
        outcome = SplitRun(asked, engines=engines, folder=folder, say=_say, stop=stop).run()
    return {
        "done": outcome.done,
        "skipped": outcome.skipped,
        "notes": outcome.notes,
        "settings": fields | {"seed": arguments.random_seed},
        "peak_memory_gib": round(engines.peak_memory_gib, 3),
        "seconds": round(time.monotonic() - start, 3),
    }


def _parser() -> argparse.ArgumentParser:
    text = (
        "Convert, describe or run checkpoints. `haystack model` and `python -m inference.model` are the same program."
    )
    parser = argparse.ArgumentParser(prog="haystack model", description=text)
    commands = parser.add_subparsers(required=True, metavar="convert|info|generate")

    text = "Rewrite a checkpoint as safetensors, which holds only the model and contains no pickle."
    command = commands.add_parser("convert", help=text, description=text)
    command.set_defaults(run=_convert)
    add = command.add_argument
    add("file", help=_FILE_HELP)
    add("output", help="the .safetensors file to write")
    add("--precision", choices=PRECISIONS, default="fp32", help="precision of the weights (default: %(default)s)")
    add("--genelist", help="the model's genes: their digest is stored in the file, so that another list is refused")
    add("--trust-pickle", action="store_true", help="allow the file to run its own code: only for files you trust")
    add("--licence", help="licence of the weights, stored in every output (default: the file's, or Arc's)")
    add("--citation", help="citation of the weights, stored in every output (default: as above)")

    text = "Show sizes, parameters, window, digest, licence, citation, and whether a gene list fits."
    command = commands.add_parser("info", help=text, description=text)
    command.set_defaults(run=_info)
    add = command.add_argument
    add("file", help=_FILE_HELP)
    add("--genelist", help="a gene list to compare: JSON, text or pickled list")

    text = (
        "Predict the test cells once for every value of a column of the base cells; accepts stack-generation's flags."
    )
    command = commands.add_parser("generate", help=text, description=text)
    command.set_defaults(run=_generate)
    add = command.add_argument
    add("--checkpoint", required=True, help=_FILE_HELP)
    add("--base-adata", required=True, help="cells that serve as prompts, h5ad")
    add("--test-adata", required=True, help="cells to predict, h5ad")
    add("--genelist", required=True, help="the model's genes: JSON, text or pickled list")
    add("--output-dir", required=True, help="folder of the outputs, one <value>.h5ad per value")
    add("--split-column", required=True, help="obs column of the base cells; each of its values defines one prompt")
    add("--split-values", nargs="*", help="predict only these values (default: all)")
    add("--gene-name-col", help="var column with the gene symbols (default: the index)")
    add("--random-seed", type=int, default=0, help="random seed of the draws (default: %(default)s)")
    add(
        "--concatenate",
        action="store_true",
        help="write one file, concatenated.h5ad, with the value in obs['split_value']",
    )
    add("--show-progress", action="store_true", help="report every step")
    for ignored in _IGNORED:
        add(f"--{ignored.replace('_', '-')}", help=argparse.SUPPRESS)
    add_model_flags(command, steps="--num-steps")
    return parser


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    exit_code = main()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(exit_code)  # everything is published; taking the modules apart would take a while
