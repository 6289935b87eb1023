"""Tables of a campaign with designed rows, and simulated ones whose truth is known."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from haystack_kernel.campaign.sealing import seal
from haystack_kernel.store import layout

NAN = float("nan")
WHOLE = {
    "status": "predicted",
    "reason": "",
    "evidence": "same_pair",
    "measured": True,
    "engine": "weighted",
    "n_prompt": 200,
    "n_control": 200,
    "n_query": 200,
    "n_donors": 4,
    "n_up": 3,
    "n_down": 2,
    "n_called": 5,
    "size": 0.2,
    "size_sd": 0.05,
    "n_tested": 2000,
    "p_response": 0.001,
    "p_signal": 0.001,
    "p_donors": 0.001,
    "p_specificity": 0.001,
    "composite": 7.0,
    "expected_r": 0.6,
    "expected_low": 0.3,
    "expected_high": 0.8,
    "calibrated": True,
    "top_up": "ISG15;IFI6",
    "top_down": "CCL2",
}


@pytest.fixture(scope="session")
def made():
    """Make a table of a campaign: one dict of changed columns a row."""

    def make(*rows):
        whole = []
        for number, row in enumerate(rows, 1):
            names = {"number": number, "perturbation": f"drug {number}", "cell_type": "B cell", "donor": ""}
            one = names | WHOLE | row
            if one["status"] != "predicted":  # what was not predicted has a reason and no figures
                figures = [name for name, value in WHOLE.items() if isinstance(value, float) and name not in row]
                one |= dict.fromkeys(figures, NAN) | {"n_called": 0} | row
            one.setdefault("question", f"How would {one['cell_type']} respond to {one['perturbation']}?")
            whole.append(one)
        return pd.DataFrame(whole)

    return make


def simulated(rng, *, n=147, types=("B cell", "NK cell"), active=0.3, shared=0.5, strength=3.5):
    """One row a question and its truth; treatments share control cells, so z values correlate by ``shared`` in a type.

    A treatment that is active is so in every cell type, with a strength of its own; an inert one does nothing anywhere.
    """
    is_active = rng.random(n) < active
    effect = np.where(is_active, strength * rng.gamma(4, 0.25, n), 0.0)
    rows = []
    for name in types:
        own = np.sqrt(1 - shared) * rng.normal(size=(n, 3)) + np.sqrt(shared) * rng.normal(size=3)
        p = norm.sf(effect[:, None] + own)
        rows.append(
            pd.DataFrame(WHOLE, index=range(n)).assign(
                perturbation=[f"drug {one}" for one in range(n)],
                cell_type=name,
                donor="",
                p_response=p[:, 0],
                p_signal=p[:, 0],
                p_donors=p[:, 1],
                p_specificity=p[:, 2],
                is_active=is_active,
                toward=effect + rng.normal(size=n),
            )
        )
    table = pd.concat(rows, ignore_index=True)
    return table.assign(number=np.arange(1, len(table) + 1))


@pytest.fixture(scope="module")
def sealed_once(finished, settings_in, tmp_path_factory):
    """A storage with a finished run and its seal, and the seal; read only."""
    ports, record = finished
    settings = settings_in(tmp_path_factory.mktemp("sealed"))
    shutil.copytree(
        Path(ports.settings.storage) / layout.RUNS / record.run_id,
        Path(settings.storage) / layout.RUNS / record.run_id,
        ignore=shutil.ignore_patterns(layout.OUTPUTS),
    )
    return settings, seal(record.run_id, settings=settings)


@pytest.fixture
def sealed_run(sealed_once, tiny_settings):
    """The same in this test's own storage: the seal."""
    settings, found = sealed_once
    shutil.copytree(settings.storage, tiny_settings.storage, dirs_exist_ok=True)
    return found
