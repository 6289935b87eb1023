"""Names of the columns of one file: four schemas as data, any other file through a small YAML mapping.

In: the name of a schema or a YAML file, and single fields given as flags. Out: one frozen ``Mapping``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, model_validator

from haystack_kernel.errors import InvalidInputError, NotFoundError, explain_refusals
from haystack_kernel.schema import Frozen

SYMBOL_COLUMNS = ("feature_name", "gene_symbols", "gene_symbol", "gene_name", "gene_names", "symbol")
ALIASES = {  # the harmonised column names are accepted as well
    "cell_type_name": "cell_type",
    "cell_type_cl_id": "cell_type_id",
    "cell_type_ontology_term_id": "cell_type_id",
    "perturbation_name": "perturbation",
    "tissue_name": "tissue",
    "tissue_uberon_id": "tissue_id",
    "tissue_ontology_term_id": "tissue_id",
    "disease_name": "disease",
    "disease_mondo_id": "disease_id",
    "disease_ontology_term_id": "disease_id",
    "donor_id": "donor",
    "donor_sex": "sex",
    "donor_age_category": "age",
    "development_stage": "age",
    "sample_condition": "condition",
}


LABELS = ("control", "treated", "ignore", "perturbation_also", "gene_symbols")  # fields that list texts


class Column(Frozen):
    """Source of one harmonised field: the first of ``columns`` that obs has, or one value for all cells."""

    columns: tuple[str, ...] = ()
    value: str | None = Field(default=None, description="constant; also used where none of the columns exists")
    required: bool = Field(default=False, description="refuse a file that has none of the columns")

    @model_validator(mode="before")
    @classmethod
    def _from_short_form(cls, given: object) -> object:
        """Convert a name or a list of names to a required column, and a numeric constant to text."""
        if isinstance(given, str):
            return {"columns": (given,), "required": True}
        if isinstance(given, (list, tuple)):
            return {"columns": tuple(given), "required": True}
        if isinstance(given, dict) and isinstance(given.get("value"), (int, float)):
            return {**given, "value": str(given["value"])}
        return given


class Mapping(Frozen):
    """How to read one file's obs and var; every field is optional except a cell type."""

    name: str = Field(default="custom", description="schema or file the mapping came from, for the record")
    cell_type: Column = Column()
    cell_type_id: Column = Column()
    perturbation: Column = Field(
        default=Column(), description="absent: every cell is a control cell, if no column of obs looks like treatments"
    )
    perturbation_also: tuple[str, ...] = Field(
        default=(), description="further columns of treatments; a cell has the treatments of all of them"
    )
    perturbation_type: Column = Field(default=Column(), description="cytokine, drug or genetic")
    dose: Column = Field(default=Column(), description="cells at dose 0 are control cells, whatever their label says")
    time: Column = Field(default=Column(), description="time since the treatment; cells at time 0 are control cells")
    vehicle: Column = Field(default=Column(), description="kind of control that each treatment is compared with")
    tissue: Column = Column()
    tissue_id: Column = Column()
    disease: Column = Column()
    disease_id: Column = Column()
    donor: Column = Column()
    sex: Column = Column()
    age: Column = Column()
    condition: Column = Column()
    dataset: Column = Field(default=Column(), description="absent: one dataset, named by the caller")
    organism: Column = Column(columns=("organism", "species", "organism_ontology_term_id"))
    control: tuple[str, ...] | None = Field(
        default=None,
        description="perturbation labels that mean untreated, besides usual words such as control or DMSO; an empty "
        "list: the file holds treated cells only",
    )
    treated: tuple[str, ...] = Field(
        default=(), description="perturbation labels that are treatments in spite of a word such as control or DMSO"
    )
    ignore: tuple[str, ...] = Field(
        default=(), description="obs columns that say nothing about treatments, whatever they look like"
    )
    unperturbed: bool = Field(default=False, description="all cells are unperturbed, whatever the columns look like")
    gene_symbols: tuple[str, ...] = Field(
        default=SYMBOL_COLUMNS, description="var columns tried for symbols where the var index holds Ensembl ids"
    )
    rename: dict[str, dict[str, str]] = Field(
        default_factory=dict, description="field -> label in the file -> known name or id to read it as"
    )

    @model_validator(mode="before")
    @classmethod
    def _accept_aliases(cls, given: object) -> object:
        if not isinstance(given, dict):
            return given
        values = {ALIASES.get(str(key), key): value for key, value in given.items() if value is not None}
        for name in LABELS:
            if isinstance(values.get(name), (str, int, float)):
                values[name] = (values[name],)
            if isinstance(values.get(name), (list, tuple)):
                values[name] = tuple(str(one) if isinstance(one, (int, float)) else one for one in values[name])
        return values

    @model_validator(mode="after")
    def _names_a_cell_type(self) -> Mapping:
        if not (self.cell_type.columns or self.cell_type_id.columns or self.cell_type.value):
            msg = "cell_type or cell_type_id must name an obs column"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _is_perturbed_or_not(self) -> Mapping:
        if self.unperturbed and (self.perturbation.columns or self.perturbation.value or self.perturbation_also):
            msg = "unperturbed says that no cell is treated, but perturbation names treatments; give one of the two"
            raise ValueError(msg)
        if self.perturbation_also and not self.perturbation.columns:
            msg = "perturbation_also names further columns of treatments; name the first one with perturbation"
            raise ValueError(msg)
        return self


FIELDS = tuple(name for name, field in Mapping.model_fields.items() if field.annotation is Column)
_NORMAL, _NORMAL_ID = Column(value="normal"), Column(value="PATO:0000461")
_SEX = Column(columns=("sex", "Sex", "gender"))
_AGE = Column(columns=("age", "Age", "development_stage"))

SCHEMAS: dict[str, Mapping] = {
    mapping.name: mapping
    for mapping in (
        Mapping(
            name="parse_pbmc",
            cell_type=Column(columns=("cell_type",), required=True),
            perturbation=Column(columns=("cytokine", "stim"), required=True),
            perturbation_type=Column(value="cytokine"),
            control=("PBS",),
            donor=Column(columns=("donor",), required=True),
            tissue=Column(value="blood"),
            sex=_SEX,
            age=_AGE,
            disease=_NORMAL,
            disease_id=_NORMAL_ID,
        ),
        Mapping(
            name="openproblems",
            cell_type=Column(columns=("cell_type",), required=True),
            perturbation=Column(columns=("sm_name",), required=True),
            perturbation_type=Column(value="drug"),
            control=("Dimethyl Sulfoxide",),
            donor=Column(columns=("donor_id",), required=True),
            tissue=Column(value="blood"),
            sex=_SEX,
            age=_AGE,
            disease=_NORMAL,
            disease_id=_NORMAL_ID,
        ),
        Mapping(
            name="tabula_sapiens",
            cell_type=Column(columns=("cell_ontology_class",), required=True),
            cell_type_id=Column(columns=("cell_ontology_id",)),
            tissue=Column(columns=("tissue",), required=True),
            donor=Column(columns=("donor",), required=True),
            sex=_SEX,
            age=_AGE,
            disease=_NORMAL,
            disease_id=_NORMAL_ID,
        ),
        Mapping(
            name="cellxgene",
            cell_type=Column(columns=("cell_type",)),
            cell_type_id=Column(columns=("cell_type_ontology_term_id",)),
            tissue=Column(columns=("tissue",)),
            tissue_id=Column(columns=("tissue_ontology_term_id",)),
            disease=Column(columns=("disease",)),
            disease_id=Column(columns=("disease_ontology_term_id",)),
            donor=Column(columns=("donor_id",), required=True),
            sex=Column(columns=("sex",)),
            age=Column(columns=("development_stage",)),
            condition=Column(columns=("condition",)),
        ),
    )
}


def load_mapping(name_or_path: str | Path, **overrides: Any) -> Mapping:  # noqa: ANN401 - names, lists, constants
    """Return a packaged schema or read a YAML mapping, with single fields replaced.

    Parameters
    ----------
    name_or_path
        ``parse_pbmc``, ``openproblems``, ``tabula_sapiens``, ``cellxgene``, or the path of a YAML file in which each
        field names an obs column, a list of columns to try, or ``{value: constant}``; ``control: [labels]``;
        ``rename: {cell_type: {label: known name}}``.
    **overrides
        ``<field>_column="obs column"``, ``<field>="constant"``, ``control=[labels]``, ``treated=[labels]``,
        ``ignore=[columns]``, ``unperturbed=True``, ``gene_symbols="var column"``, ``rename={…}``. None is ignored.

    Returns
    -------
    The mapping, whose fields name columns or constants.

    Raises
    ------
    NotFoundError
        The YAML file does not exist.
    InvalidInputError
        The schema or a field is unknown, or the YAML is invalid; the message lists what is possible.
    """
    base = SCHEMAS.get(str(name_or_path))
    values: dict[str, Any] = _read_yaml(name_or_path) if base is None else base.model_dump()
    given = {_field(key): _column(key, value) for key, value in overrides.items() if value is not None}
    constants = [name for name in ("cell_type", "tissue", "disease") if overrides.get(name) is not None]
    unpaired = {f"{name}_id": Column() for name in constants}  # an id column would contradict the constant
    values |= unpaired | given
    return _validated(values, origin=str(name_or_path))


def _read_yaml(given: str | Path) -> dict[str, Any]:
    import yaml

    path = Path(given).expanduser()
    if path.suffix not in {".yaml", ".yml"}:
        msg = f"schema {str(given)!r} is unknown; possible: {', '.join(SCHEMAS)}, or the path of a .yaml mapping"
        raise InvalidInputError(msg, schema=str(given), known=list(SCHEMAS))
    if not path.is_file():
        msg = f"mapping file {path} does not exist; give an existing .yaml file or one of {', '.join(SCHEMAS)}"
        raise NotFoundError(msg, path=str(path))
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        msg = f"mapping file {path} is not valid YAML: {error}"
        raise InvalidInputError(msg, path=str(path)) from error
    if not isinstance(values, dict):
        msg = f"mapping file {path} must hold fields and columns, e.g. 'cell_type: celltype'; it holds {values!r:.60}"
        raise InvalidInputError(msg, path=str(path))
    if isinstance(base := values.pop("schema", None), str) and base in SCHEMAS:  # a file may refine a schema
        values = SCHEMAS[base].model_dump() | {ALIASES.get(str(key), str(key)): value for key, value in values.items()}
    return {"name": path.stem, **values}


def _field(key: str) -> str:
    name = key.removesuffix("_column") if key.endswith("_column") else key
    name = ALIASES.get(name, name)
    known = name in FIELDS or (not key.endswith("_column") and name in {*LABELS, "rename", "unperturbed"})
    if not known:
        flags = ", ".join(f"{field}_column" for field in FIELDS)
        msg = (
            f"mapping has no field {key!r}; possible: {flags}, the same without _column as a constant, "
            f"{', '.join(LABELS)}, rename, unperturbed"
        )
        raise InvalidInputError(msg, field=key)
    return name


def _column(key: str, value: object) -> object:
    if key.endswith("_column"):
        return {"columns": (value,) if isinstance(value, str) else value, "required": True}
    return {"value": value} if ALIASES.get(key, key) in FIELDS and not isinstance(value, (dict, Column)) else value


def _validated(values: dict[str, Any], *, origin: str) -> Mapping:
    try:
        return Mapping.model_validate(values)
    except ValidationError as error:
        lines = explain_refusals(error, whole="mapping")
        fields = ", ".join((*FIELDS, *LABELS, "rename", "unperturbed"))
        msg = f"mapping {origin} is invalid: {'; '.join(lines)}. Fields are {fields}"
        raise InvalidInputError(msg, errors=lines) from error
