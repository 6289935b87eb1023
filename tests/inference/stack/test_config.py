from __future__ import annotations

import subprocess
import sys

import pytest

from inference.errors import ModelError
from inference.stack.config import GenerationSettings, StackConfig, parse_config, tensor_shapes

PUBLISHED = {
    "n_genes": 15012,
    "n_hidden": 100,
    "token_dim": 16,
    "n_layers": 9,
    "n_heads": 8,
    "mlp_ratio": 4,
    "n_cells": 256,
}


def test_published_sizes_give_the_published_number_of_parameters():
    config = parse_config({**PUBLISHED, "dropout": 0.1, "other": object()}, name="m")
    n_parameters = 0
    for shape in tensor_shapes(config).values():
        size = 1
        for length in shape:
            size *= length
        n_parameters += size
    assert n_parameters == 217_806_513  # "217 M"


@pytest.mark.parametrize(("token_dim", "n_heads", "expected"), [(16, 8, 8), (8, 4, 8), (6, 4, 3), (5, 4, 1), (4, 8, 4)])
def test_token_heads_follow_the_rule(token_dim, n_heads, expected):
    config = StackConfig(
        n_genes=3, n_hidden=8, token_dim=token_dim, n_cells=4, n_layers=1, n_heads=n_heads, mlp_ratio=1
    )
    assert config.n_token_heads == expected


@pytest.mark.parametrize(
    ("raw", "match"),
    [
        (None, "model_config is NoneType"),
        ({"n_genes": 3}, "lacks n_hidden, token_dim"),
        ({**PUBLISHED, "n_genes": "15012"}, "whole number"),
        ({**PUBLISHED, "n_layers": True}, "whole number"),
        ({**PUBLISHED, "n_layers": 0}, "whole number"),
        ({**PUBLISHED, "n_layers": 900_000}, "more than 1000"),
        ({**PUBLISHED, "n_heads": 7}, "does not divide"),
        ({**PUBLISHED, "n_cells": 1}, "no room"),
    ],
)
def test_config_that_is_none_is_refused(raw, match):
    with pytest.raises(ModelError, match=f"^m.ckpt: .*{match}"):
        parse_config(raw, name="m.ckpt")


def test_program_starts_without_torch():
    heavy = ["torch", "safetensors", "haystack_kernel"]
    modules = "inference.run_inference, inference.stack.config, inference.stack.genes"
    code = f"import sys, {modules}; print(sorted(set({heavy}) & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_settings_are_the_manifests_defaults():
    from dataclasses import asdict

    from inference.manifest import Manifest

    manifest = asdict(Manifest(tasks=()))
    assert asdict(GenerationSettings()).items() <= manifest.items()
