"""The calibrations that ship with the demo atlas are those of the demo atlas as it is made today."""

import hashlib
from pathlib import Path

from haystack_kernel.atlas.calibrations import PACKAGED
from haystack_kernel.atlas.demo import DEMO_SEED, _sources
from haystack_kernel.schema import MIN_PERTURBATIONS, Calibration
from haystack_kernel.store import layout
from inference.manifest import DEMO_MODEL
from inference.models import packaged


def test_the_demo_atlas_ships_with_its_calibrations():
    stamp = " ".join(sorted(path.stem for path in _sources(Path("/somewhere"), DEMO_SEED).values()))
    for engine in ("mean", "shift", "weighted"):
        found = Calibration.model_validate_json((PACKAGED / layout.calibration_file(engine)).read_text())
        assert (found.atlas, found.engine) == ("demo", engine)
        assert found.digest == stamp, "the demo atlas has changed: `haystack backtest demo --pairs 156` remakes them"
        assert found.n_pairs >= 140
        for stratum in found.strata:
            assert stratum.method == "conformal"
            assert stratum.n_perturbations >= MIN_PERTURBATIONS
            assert 0.75 <= stratum.n_covered / stratum.n_checked <= 0.9
        assert len(found.pairs) == found.n_pairs
        assert not found.n_sealed  # what somebody measured does not travel with the package
    (path,) = (PACKAGED / layout.CALIBRATIONS).glob("stack-*.json")
    model = Calibration.model_validate_json(path.read_text())
    weights = hashlib.sha256(packaged(DEMO_MODEL)[0].read_bytes()).hexdigest()
    assert (model.digest, model.model) == (stamp, weights), "the demo atlas or its model has changed"
    assert (len(model.pairs), model.n_sealed) == (model.n_pairs, 0)
    assert path.name == Path(layout.calibration_file("stack", weights)).name
