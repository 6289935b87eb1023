"""A tiny world: three cell types, four treatments that each raise genes of their own in every type."""

import numpy as np
import pytest
from scipy import sparse

N_TYPES, N_TREATMENTS, N_GENES, N_CELLS = 3, 4, 60, 24


def tiny_world(seed=0):
    """Treatment t raises genes 20 + 5 t … 24 + 5 t threefold; types differ in genes 0 … 19. The pair (3, 2) is held."""
    from tools.training.world import World

    rng = np.random.default_rng(seed)
    base = np.ones((N_TYPES, N_GENES))
    for number in range(N_TYPES):
        base[number, 6 * number : 6 * number + 6] = 6.0
    share = np.repeat(base[None], 1 + N_TREATMENTS, axis=0)
    for treatment in range(N_TREATMENTS):
        share[1 + treatment, :, 20 + 5 * treatment : 25 + 5 * treatment] *= 3.0
    share /= share.sum(axis=2, keepdims=True)

    def cells(profile, n_cells):
        return sparse.csr_matrix(rng.poisson(600 * profile, size=(n_cells, N_GENES)).astype(np.float32))

    held = np.zeros((N_TREATMENTS, N_TYPES), bool)
    held[3, 2] = True
    return World(
        genes=tuple(f"G{i}" for i in range(N_GENES)),
        share=share,
        control=sparse.vstack([cells(share[0, number], N_CELLS) for number in range(N_TYPES)], format="csr"),
        control_type=np.repeat(np.arange(N_TYPES), N_CELLS),
        control_share=np.repeat(share[0], N_CELLS, axis=0),
        treated={key: cells(share[1 + key[0], key[1]], N_CELLS) for key in np.ndindex(N_TREATMENTS, N_TYPES)},
        held_pairs=held,
        families=np.ones((2, N_TYPES), bool),
        is_drug=np.zeros(N_TREATMENTS, bool),
    )


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Small tensors: threads would only wait for each other."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def world():
    """The tiny world."""
    return tiny_world()
