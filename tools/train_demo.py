"""Trains the small model that comes with the package.

In: one world (``python -m tools.lessons FILE`` writes it). Out: ``demo.safetensors`` in half precision, and
``demo.genes.json`` beside it; progress on stderr. Seeds are fixed: the same processor, number of threads and package
versions give the same weights.

Training starts at the best linear prediction (:mod:`tools.training.start`). The layers then learn on tokens that are
computed once, against coordinates of the true profile, which is cheap. Finally the readout of the coordinates becomes
the output layer.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its customary name

from inference.stack.checkpoint import save_safetensors
from inference.stack.config import GenerationSettings, StackConfig
from tools.training.profiles import fit_basis, fit_reader
from tools.training.start import start_network
from tools.training.windows import Windows, draw_layout
from tools.training.world import read_world

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scipy import sparse

    from tools.training.network import Network
    from tools.training.profiles import Basis
    from tools.training.windows import Batch, Layout
    from tools.training.world import World

CITATION = (
    "HAYSTACK demo model, trained on simulated cells; architecture of Dong et al. 2026, doi 10.64898/2026.01.09.698608"
)
LICENCE = "Apache-2.0"
_FIT_RIDGE = 1e-5  # relative to the number of rows
_MIN_DISPERSION, _MAX_DISPERSION = 0.05, 50.0


@dataclass(frozen=True)
class Plan:
    """Sizes of the model and length of the training."""

    n_hidden: int = 6
    token_dim: int = 32
    n_layers: int = 3
    n_heads: int = 4
    n_cells: int = 64
    n_coordinates: int = 192
    n_steps: int = 4500
    n_windows: int = 16  # in each step
    learning_rate: float = 1e-4
    weight_decay: float = 0.01
    weight_shift: float = 3.0  # weight of the error of the mean over a window's query cells
    weight_logit: float = 5.0
    max_gradient: float = 20.0
    ridge: float = 300.0  # ridge penalty of the estimate of a cell's profile
    n_episodes: int = 8000  # episodes that the starting weights are fitted on
    n_fit: int = 150  # batches that the first readout is fitted on
    seed: int = 0


def train(world: World, plan: Plan, *, tell_every: int = 100) -> dict[str, torch.Tensor]:
    """Train a model on one world.

    Returns
    -------
    The tensors of the checkpoint, float32.
    """
    rng = np.random.default_rng(plan.seed)
    torch.manual_seed(plan.seed)
    config = make_config(world, plan)
    basis = fit_basis(world, n_coordinates=plan.n_coordinates, rng=rng)
    reader = fit_reader(world, basis, ridge=plan.ridge)
    network = start_network(
        config, world=world, basis=basis, reader=reader, n_episodes=plan.n_episodes, rng=rng, seed=plan.seed
    )
    _say("the starting weights are set")

    def tokenise(counts: sparse.csr_matrix) -> torch.Tensor:
        with torch.no_grad():
            dense = counts.toarray() if hasattr(counts, "toarray") else counts
            return network.reduce(torch.tensor(dense, dtype=torch.float32))

    windows = Windows(world, basis, tokenise=tokenise)
    readout = Readout(basis, n_hidden=2 * config.cell_dim)
    readout.fit(network, windows, plan=plan, rng=rng)
    learn(network, readout, windows, plan=plan, rng=rng, tell_every=tell_every)
    with torch.no_grad():
        readout.write(network)
        _set_dispersion(network, world)
    return network.tensors()


def make_config(world: World, plan: Plan) -> StackConfig:
    """Sizes of the model."""
    return StackConfig(
        n_genes=len(world.genes),
        n_hidden=plan.n_hidden,
        token_dim=plan.token_dim,
        n_cells=plan.n_cells,
        n_layers=plan.n_layers,
        n_heads=plan.n_heads,
        mlp_ratio=4,
    )


class Readout:
    """Linear map from hidden values to coordinates; after training it becomes part of the output layer."""

    def __init__(self, basis: Basis, *, n_hidden: int) -> None:
        self._basis = basis
        self._spread = torch.tensor(basis.spread, dtype=torch.float32)
        self._centre = torch.tensor(basis.centre, dtype=torch.float32)
        self.weight = torch.nn.Parameter(torch.zeros(len(basis.directions), n_hidden))

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """Coordinates of rows of hidden values."""
        return hidden @ self.weight.T * self._spread + self._centre

    @torch.no_grad()
    def fit(self, network: Network, windows: Windows, *, plan: Plan, rng: np.random.Generator) -> None:
        """Set the weights by least squares, so that training starts at a linear fit."""
        hidden, target = [], []
        settings = GenerationSettings()
        for _ in range(plan.n_fit):
            layout = draw_layout(plan.n_cells, settings=settings, rng=rng)
            batch = windows.draw(plan.n_windows, layout=layout, rng=rng)
            rows = network.mix(batch.tokens, n_ctx=layout.n_ctx, n_keep=layout.n_keep)[:, layout.n_ctx :]
            hidden.append(network.hidden(rows).flatten(0, 1).double())
            target.append(batch.target.flatten(0, 1).double())
        h, z = torch.cat(hidden), torch.cat(target)
        mean = h.mean(dim=0)
        square = (h - mean).T @ (h - mean)
        square += _FIT_RIDGE * len(h) * torch.eye(h.shape[1], dtype=torch.float64)
        slope = torch.linalg.solve(square, (h - mean).T @ (z - z.mean(dim=0)))
        self.weight.copy_((slope / self._spread.double()).T.float())
        self._centre.copy_((z.mean(dim=0) - mean @ slope).float())

    def write(self, network: Network) -> None:
        """Write the readout into the network's output layer, as logits of each gene's share."""
        per_gene = torch.tensor(self._basis.per_gene, dtype=torch.float32)
        mean = torch.tensor(self._basis.mean, dtype=torch.float32)
        network["output_mlp.3.weight"][0::2] = (per_gene.T * self._spread) @ self.weight
        network["output_mlp.3.bias"][0::2] = mean + self._centre @ per_gene


def learn(
    network: Network, readout: Readout, windows: Windows, *, plan: Plan, rng: np.random.Generator, tell_every: int
) -> None:
    """Train the layers, the logits and the readout on fixed tokens."""
    parameters = [*network.named("layers.", "query_pos", "gene_pos", "output_mlp.0", "cls."), readout.weight]
    optimiser = torch.optim.AdamW(parameters, lr=plan.learning_rate, weight_decay=plan.weight_decay, betas=(0.9, 0.98))
    settings = GenerationSettings()
    means: dict[str, float] = {}
    for step in range(plan.n_steps):
        # The learning rate warms up, then falls by half a cosine to a twentieth.
        fall = 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / plan.n_steps))
        factor = min(1.0, (step + 1) / 500) * fall
        for group in optimiser.param_groups:
            group["lr"] = plan.learning_rate * factor
        layout = draw_layout(plan.n_cells, settings=settings, rng=rng)
        batch = windows.draw(plan.n_windows, layout=layout, rng=rng)
        losses = compute_losses(network, readout, batch, layout=layout)
        loss = losses["cells"] + plan.weight_shift * losses["means"] + plan.weight_logit * losses["logits"]
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, plan.max_gradient)
        optimiser.step()
        for name, value in losses.items():
            means[name] = 0.97 * means.get(name, value.item()) + 0.03 * value.item()
        if (step + 1) % tell_every == 0:
            shown = ", ".join(f"{name} {value:.3f}" for name, value in means.items())
            _say(f"step {step + 1} of {plan.n_steps}: {shown}")


def compute_losses(network: Network, readout: Readout, batch: Batch, *, layout: Layout) -> dict[str, torch.Tensor]:
    """Compute the losses: squared errors of query cells and of their mean in a window, cross-entropy of the logits.

    Errors are in coordinates. Summed over coordinates, a squared error is about that of log1p(CP10k) over genes.
    """
    flat = network.mix(batch.tokens, n_ctx=layout.n_ctx, n_keep=layout.n_keep)
    error = readout(network.hidden(flat[:, layout.n_ctx :])) - batch.target
    is_open = batch.is_open.unsqueeze(-1)
    means = (((error * is_open).sum(dim=1) / is_open.sum(dim=1)) ** 2).sum(dim=-1)
    uniform = batch.is_uniform
    return {
        "cells": (error**2).sum(dim=-1).mean(),
        "means": means[uniform].mean() if uniform.any() else error.new_zeros(()),
        "logits": F.binary_cross_entropy_with_logits(network.logits(flat, n_ctx=layout.n_ctx), batch.is_wrong),
    }


def _set_dispersion(network: Network, world: World) -> None:
    """Set one inverse dispersion per gene, from moments of the untreated cells around their expected counts."""
    counts = world.control.toarray().astype(np.float64)
    mean = world.control_share * counts.sum(axis=1, keepdims=True)
    excess = ((counts - mean) ** 2 - mean).sum(axis=0)
    square = (mean**2).sum(axis=0)
    theta = square / np.maximum(excess, square / _MAX_DISPERSION)
    theta = np.maximum(theta, _MIN_DISPERSION)
    network["output_mlp.3.weight"][1::2] = 0.0
    network["output_mlp.3.bias"][1::2] = torch.tensor(np.log(np.expm1(theta)), dtype=torch.float32)


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def main(argv: Sequence[str] | None = None, *, sizes: Plan | None = None) -> int:
    """Run the program; ``sizes`` is the plan that the flags refine, by default that of the shipped model."""
    parser = argparse.ArgumentParser(prog="python -m tools.train_demo", description="Train the demo model.")
    parser.add_argument("world", type=Path, help="an .npz of tools.lessons")
    parser.add_argument("folder", type=Path, help="output folder of demo.safetensors and demo.genes.json")
    parser.add_argument("--steps", type=int, default=Plan.n_steps)
    parser.add_argument("--learning-rate", type=float, default=Plan.learning_rate)
    parser.add_argument("--threads", type=int, default=1)
    found = parser.parse_args(argv)
    torch.set_num_threads(found.threads)
    plan = replace(sizes or Plan(), n_steps=found.steps, learning_rate=found.learning_rate)
    world = read_world(found.world)
    tensors = {name: value.half() for name, value in train(world, plan).items()}
    found.folder.mkdir(parents=True, exist_ok=True)
    save_safetensors(
        found.folder / "demo.safetensors",
        config=make_config(world, plan),
        tensors=tensors,
        metadata={"citation": CITATION, "licence": LICENCE},
    )
    (found.folder / "demo.genes.json").write_text(json.dumps(list(world.genes)) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
