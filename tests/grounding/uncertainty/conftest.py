"""Cells of three types and four donors whose response differs between types, or between donors, by a known amount."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from haystack_kernel import keys

N_GENES, N_MOVED = 1200, 150
TYPES, DONORS = ("A", "B", "C", "asked"), ("d1", "d2", "d3", "d4")


class Designed:
    """``effects[type][donor]`` is the true log change of the rate of each gene; the first genes move.

    Types are ``apart`` by so much in the logarithm of their levels, and so are their effects in genes that move.
    """

    def __init__(self, *, between_types=0.0, between_donors=0.0, size=1.2, seed=0, apart=None):
        self.rng = rng = np.random.default_rng(seed)
        self.levels = rng.permutation(np.geomspace(0.05, 4.0, N_GENES))
        common = np.zeros(N_GENES)
        common[:N_MOVED] = size * rng.choice([1.0, -1.0], N_MOVED, p=[0.7, 0.3])
        self.effects, self.levels_of = {}, dict.fromkeys(TYPES, self.levels)
        of_donor = {donor: 1 + between_donors * rng.normal(size=N_GENES) for donor in DONORS}
        for name in TYPES:
            of_type = 1 + between_types * rng.normal(size=N_GENES)
            self.effects[name] = {donor: common * of_type * of_donor[donor] for donor in DONORS}
        for name, far in (apart or {}).items():
            self.levels_of[name] = self.levels * np.exp(far * rng.normal(size=N_GENES))
            own = np.where(common != 0, far * rng.normal(size=N_GENES), 0.0)
            self.effects[name] = {donor: effect + own for donor, effect in self.effects[name].items()}

    def cells(self, n, *, types, treated, donors=DONORS):
        """``n`` cells of each type and donor."""
        rows, obs = [], []
        for name in types:
            for donor in donors:
                rates = self.levels_of[name] * np.exp(self.effects[name][donor] * treated)
                depth = self.rng.lognormal(0, 0.25, (n, 1))
                rows.append(self.rng.poisson(self.rng.gamma(3, depth * rates / 3)))
                obs += [(name, donor)] * n
        table = pd.DataFrame(obs, columns=[keys.CELL_TYPE, keys.DONOR])
        table.index = [f"{place}-{self.rng.integers(10**9)}" for place in range(len(obs))]
        counts = sparse.csr_matrix(np.vstack(rows).astype(np.float32))
        return ad.AnnData(counts, obs=table, var=pd.DataFrame(index=[f"G{i}" for i in range(N_GENES)]))


@pytest.fixture(scope="session")
def designed():
    return Designed
