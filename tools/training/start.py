"""The starting weights of training, which already predict linearly from the query cell and the mean of the prompt.

In: a world, its basis and reader. Out: a :class:`Network` whose layers only carry the estimated coordinates and,
in one half of the tokens, the mean over the window. The two halves hold as much of the best linear prediction as fits
(reduced-rank regression), so that training starts at that prediction and not at noise.

One value of each token is a large constant, next to which layer normalisation is nearly linear.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from tools.training.network import Network
from tools.training.world import UNTREATED

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from inference.stack.config import StackConfig
    from tools.training.profiles import Basis, Reader
    from tools.training.world import World

    Floats = NDArray[np.float64]

_ANCHOR = 12.0  # the constant, in standard deviations of the other values
_LIFT = 3.0  # added before GELU, where it then is nearly the identity
_MEAN_GAIN = 1.5  # standard deviation of the window's mean beside a cell's own values
_SMALL, _QUIET, _FAINT = 0.3, 0.05, 0.02  # factors on random weights that should matter little at first
_HIDDEN_SD = 0.7
_N_PROMPT, _N_QUERY = 40, 4  # cells of an episode
_JITTER = 1e-6


@dataclass(frozen=True)
class _Halves:
    """Linear maps from coordinates of a cell to the token values of each half; (coordinates, values)."""

    own: Floats
    shared: Floats
    gain: float  # of the mean over the window, relative to the cells' values


def start_network(
    config: StackConfig,
    *,
    world: World,
    basis: Basis,
    reader: Reader,
    n_episodes: int,
    rng: np.random.Generator,
    seed: int,
) -> Network:
    """Build the network that training starts from; its output layer is fitted later, by the trainer's readout."""
    network = Network(config, seed=seed)
    halves = _choose_halves(config, basis=basis, tokens=_Estimates(world, reader), n_episodes=n_episodes, rng=rng)
    own, shared, anchors = _places(config)
    with torch.no_grad():
        weight, bias = network["gene_reduction.0.weight"], network["gene_reduction.0.bias"]
        weight.zero_()
        bias.fill_(_LIFT)
        for rows, part in ((own, halves.own), (shared, halves.shared)):
            weight[rows] = torch.tensor((reader.weights @ part).T, dtype=weight.dtype)
            bias[rows] += torch.tensor(reader.offset @ part, dtype=bias.dtype)
        bias[anchors] += _ANCHOR
        _set_layers(network, shared=shared, gain=halves.gain)
        hidden = network["output_mlp.0.weight"]
        hidden.mul_(_HIDDEN_SD)
        hidden[:, anchors] = 0.0
        network["output_mlp.0.bias"].fill_(_LIFT)
        network["query_pos_embedding"].zero_()
    return network


def _places(config: StackConfig) -> tuple[NDArray[np.int64], ...]:
    """Positions in a cell's flattened tokens: own values, shared values, the constants."""
    index = np.arange(config.cell_dim).reshape(config.n_hidden, config.token_dim)
    half = config.n_hidden // 2
    return index[:half, 1:].ravel(), index[half:, 1:].ravel(), index[:, 0].copy()


def _choose_halves(
    config: StackConfig, *, basis: Basis, tokens: _Estimates, n_episodes: int, rng: np.random.Generator
) -> _Halves:
    """Reduced-rank regression of the true coordinates on a query cell's and its prompt's mean estimated ones."""
    episodes = [tokens.episode(basis, rng) for _ in range(n_episodes)]
    features, target = (np.concatenate(part) for part in zip(*episodes, strict=True))
    features -= features.mean(axis=0)
    covariance = features.T @ features / len(features)
    slope = np.linalg.solve(
        covariance + _JITTER * np.eye(len(covariance)), features.T @ (target - target.mean(axis=0)) / len(features)
    )
    n, (own, shared, _) = len(basis.directions), _places(config)
    parts = []
    for block, places in ((slice(0, n), own), (slice(n, None), shared)):
        # directions of the input, of unit variance, that explain most of the prediction
        within = covariance[block, block]
        root = np.linalg.cholesky(within + _JITTER * np.eye(len(within)))
        left = np.linalg.svd(root.T @ slope[block])[0][:, : min(places.size, len(within))]
        chosen = np.asarray(np.linalg.solve(root.T, left))
        rotation = np.linalg.qr(rng.normal(size=(chosen.shape[1], chosen.shape[1])))[0]
        parts.append(np.pad(chosen @ rotation, ((0, 0), (0, places.size - chosen.shape[1]))))
    cells = tokens.all_cells()
    spreads = [float((cells @ part).std(axis=0).max(initial=_JITTER)) for part in parts]
    return _Halves(parts[0] / spreads[0], parts[1] / spreads[1], gain=_MEAN_GAIN * spreads[1])


class _Estimates:
    """Estimated coordinates of all cells."""

    def __init__(self, world: World, reader: Reader) -> None:
        self._world = world
        self._control = reader.read(world.control)
        self._of_type = [np.flatnonzero(world.control_type == number) for number in range(world.n_types)]
        self._treated = {key: reader.read(cells) for key, cells in world.treated.items()}

    def all_cells(self) -> Floats:
        shown = [v for (treatment, kind), v in self._treated.items() if kind in self._world.shown(treatment)]
        return np.concatenate([self._control, *shown])

    def episode(self, basis: Basis, rng: np.random.Generator) -> tuple[Floats, Floats]:
        """Some query cells' own estimates beside their prompt's mean, and their true coordinates."""
        world = self._world
        treatment = UNTREATED if rng.random() < 1 / 5 else int(rng.choice(world.trainable()))
        shown = world.shown(treatment)
        asked = int(rng.choice(shown))
        others = rng.permutation(shown[shown != asked])
        types = rng.choice(others[: rng.integers(1, others.size + 1)], _N_PROMPT)
        picked = []
        for number in map(int, types):
            if treatment == UNTREATED:
                picked.append(self._control[rng.choice(self._of_type[number])])
            else:
                estimates = self._treated[treatment, number]
                picked.append(estimates[int(rng.integers(len(estimates)))])
        prompt = np.mean(picked, axis=0)
        cells = rng.choice(self._of_type[asked], _N_QUERY, replace=False)
        features = np.concatenate([self._control[cells], np.repeat(prompt[None], _N_QUERY, axis=0)], axis=1)
        return features, basis.coordinates(world.true_share(cells, treatment)) - basis.centre


def _set_layers(network: Network, *, shared: NDArray[np.int64], gain: float) -> None:
    """Set all layers near the identity, except that the first adds the window's mean to the shared half."""
    config = network.config
    dim, size = config.token_dim, config.cell_dim
    spread = ((_ANCHOR**2 * (1 - 1 / dim) + (dim - 1)) / dim) ** 0.5  # of a token, which normalisation divides by
    for index in range(config.n_layers):
        name = f"layers.{index}"
        for norm in ("cell_norm", "gene_norm", "mlp_norm"):
            network[f"{name}.{norm}.weight"].fill_(spread)
        for branch in ("cell_attn.proj", "gene_attn.proj", "mlp.3"):
            network[f"{name}.{branch}.weight"].mul_(_FAINT)
        network[f"{name}.gene_attn.qkv.weight"][: 2 * size].mul_(_QUIET)
        network[f"{name}.cell_attn.qkv.weight"].mul_(_SMALL)
        network[f"{name}.mlp.0.weight"].mul_(_SMALL)
    value, output = network["layers.0.gene_attn.qkv.weight"][2 * size :], network["layers.0.gene_attn.proj.weight"]
    value.zero_()
    output.zero_()
    value[shared, shared] = 1.0
    output[shared, shared] = gain
