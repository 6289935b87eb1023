"""Sealed predictions: what was predicted, fixed by digests before it is measured, and what a measurement says of it.

In: plain values. Out: Seal, SealedPrediction, Outcome.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from haystack_kernel.schema.backtest import BackTested
from haystack_kernel.schema.base import NAN, EvidenceDistance, Frozen, Real
from haystack_kernel.schema.score import ExpectedAccuracy

SealedKind = Literal["run", "screen"]


class SealedTable(Frozen):
    """A table by the digest of its canonical text: these columns, rows in order of the first one, nine digits, CSV."""

    path: str = Field(description="in the folder of the run or screen")
    columns: tuple[str, ...]
    n_rows: int
    sha256: str


class SealedPrediction(Frozen):
    """One prediction of a seal: what it is of, what it is expected to reach, and its table of effects."""

    number: int = Field(default=0, ge=0, description="of the question in its screen; 0: of a run")
    question: str
    cell_type: str = ""
    cell_type_id: str = ""
    perturbation: str = Field(default="", description="known name of the treatment; empty: the question asks for none")
    donor: str = ""
    engine: str
    model: str = Field(default="", description="sha256 of the weights; empty for an engine without")
    atlas: str = Field(default="", description="of the prompt cells; 'own': given by the user")
    stamp: str = Field(default="", description="content of that atlas, as calibrations have it")
    evidence: EvidenceDistance | None = Field(default=None, description="nearest evidence distance of the prompt")
    features: dict[str, Real] = Field(default_factory=dict, description="of the prompt, as calibrations have them")
    expected: ExpectedAccuracy | None = Field(default=None, description="from the prompt's own cells")
    back_tested: BackTested | None = Field(default=None, description="from the back-test of the atlas, at sealing")
    measured: bool = Field(default=False, description="the atlas held the response when it was predicted")
    table: SealedTable


class Seal(Frozen):
    """Digests of a prediction or campaign with the date; it can be given away alone, and says what may not change."""

    format: Literal["haystack-seal-1"] = "haystack-seal-1"
    id: str
    kind: SealedKind
    of: str = Field(description="id of the run or screen")
    sealed_at: datetime = Field(description="by the clock of the machine that sealed it")
    files: dict[str, str] = Field(description="file that says how it was predicted -> sha256 of its bytes")
    predictions: tuple[SealedPrediction, ...]
    versions: dict[str, str] = Field(default_factory=dict)
    digest: str = Field(default="", description="sha256 of everything above as canonical JSON")

    def prediction(self, number: int) -> SealedPrediction | None:
        """The prediction of a question; None where it was not sealed."""
        return next((one for one in self.predictions if one.number == number), None)


class Outcome(Frozen):
    """A sealed prediction held against what was measured afterwards; NaN where it could not be computed."""

    id: str = Field(description="of the prediction and the measured values: the same outcome twice has the same id")
    seal: str
    seal_digest: str
    sealed_at: datetime
    recorded_at: datetime
    prediction: SealedPrediction
    source: str = Field(description="name of the file of the measurement, without its folders")
    scale: Literal["cells", "delta", "log2fc"] = Field(
        description="cells: effects were computed from counts; else what the table of the measurement holds"
    )
    measured: str = Field(description="sha256 of the measured effects, six digits, in order of the genes")
    n_treated: int = 0
    n_control: int = 0
    n_genes: int = Field(default=0, description="tested genes that were measured")
    pearson: Real = Field(default=NAN, description="as in back-tests, over these genes")
    cosine: Real = NAN
    rmse: Real = NAN
    overlap: Real = Field(default=NAN, description="of the 50 genes that change most")
    direction: Real = Field(default=NAN, description="of genes measured beyond three standard errors")
    n_clear: int = Field(default=0, description="such genes")
    reliability: Real = Field(default=NAN, description="share of the measured variance that is not noise")
    clean: Real = Field(default=NAN, description="pearson against a measurement without noise")
    n_called: int = Field(default=0, description="genes that the prediction calls, among those measured")
    called_right: Real = Field(default=NAN, description="share of them whose measured sign is the called one")
    coverage: Real = Field(
        default=NAN, description="share of genes inside their 80 % interval, widened by the measurement's own error"
    )
    coverage_called: Real = Field(default=NAN, description="the same among called genes")
    inside: bool | None = Field(default=None, description="pearson lies in the back-tested 80 % interval of the seal")
    inside_clean: bool | None = Field(default=None, description="clean lies in the interval expected from the prompt")
    unmatched: tuple[str, ...] = Field(default=(), description="what of either side was not compared")
    notes: tuple[str, ...] = ()
    reason: str = Field(default="", description="why there is no figure")
    not_counted: str = Field(default="", description="why it does not count in a calibration; empty: it does")

    @property
    def words(self) -> str:
        """The comparison in one sentence."""
        one = self.prediction
        what = f"{one.perturbation} in {one.cell_type or 'the cells asked for'}, sealed {self.sealed_at:%Y-%m-%d}"
        if self.reason:
            return f"{what}: not compared, {self.reason}"
        return f"{what}: r = {self.pearson:.2f} with the measured response over {self.n_genes:,} genes{self._inside()}"

    def _inside(self) -> str:
        found = self.prediction.back_tested
        if self.inside is None or found is None:
            return ""
        where = "inside" if self.inside else "outside"
        return f", {where} the sealed 80 % interval {found.low:.2f} to {found.high:.2f}"
