"""Names that the atlases of a run hold, which a question and its options may use although no table knows them.

In: a configuration and the ports. Out: a ``Vocabulary``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from haystack_kernel import keys
from haystack_kernel.knowledge import load_knowledge, with_vocabulary
from haystack_kernel.planners.offline import parse_question
from haystack_kernel.schema import DEMO_ATLAS, Vocabulary

if TYPE_CHECKING:
    from haystack_kernel.ports import Atlas, Ports
    from haystack_kernel.schema import RunConfig


def read_vocabulary(config: RunConfig, ports: Ports, *, question: str = "") -> Vocabulary:
    """Read the names of the atlases of a run, and how the user calls the effect of prompt cells of their own.

    Parameters
    ----------
    config
        Names the atlases.
    ports
        Opens them.
    question
        With own prompt cells, a treatment of the question that nobody knows is what these cells show.

    Returns
    -------
    Names of treatments, of cell types without an ontology id, and of donors. The demo atlas adds none: the tables know
    its names, and it is made only when its cells are first needed.

    Raises
    ------
    NotFoundError
        An atlas does not exist.

    Examples
    --------
    >>> read_vocabulary(config, ports).perturbations  # doctest: +SKIP
    (('XQ-4471', 'drug'),)
    """
    names = [name for name in config.atlas_names if name != DEMO_ATLAS]
    held = _names_of(ports.open_atlas(names)) if names else Vocabulary()
    if config.prompt_h5ad is None or not question:
        return held
    own = tuple((name, "") for name in own_treatments(question, ports, held=held))
    return held.model_copy(update={"perturbations": tuple(sorted({*held.perturbations, *own}))}) if own else held


def own_treatments(question: str, ports: Ports, *, held: Vocabulary) -> tuple[str, ...]:
    """Treatments of a question that neither the tables nor the atlases know, as the question writes them.

    Parameters
    ----------
    question
        The user's text.
    ports
        Its settings name the tables.
    held
        Names that the atlases hold.

    Returns
    -------
    The words of the question; empty where every treatment is known.

    Examples
    --------
    >>> own_treatments("How would B cells respond to XQ-4471?", ports, held=Vocabulary())  # doctest: +SKIP
    ('XQ-4471',)
    """
    knowledge = with_vocabulary(load_knowledge(ports.settings.knowledge), held)
    unknown = parse_question(question, knowledge=knowledge).unresolved
    return tuple(one.text for one in unknown if one.kind == "perturbation")


def _names_of(atlas: Atlas) -> Vocabulary:
    held = atlas.conditions()
    treated = held.loc[~held[keys.IS_CONTROL], [keys.PERTURBATION, keys.PERTURBATION_TYPE]].drop_duplicates()
    donors = {donor for donor in held[keys.DONOR] if donor}
    return Vocabulary(
        perturbations=tuple(sorted(treated.itertuples(index=False, name=None))),
        cell_types=tuple(sorted(set(held.loc[held[keys.CELL_TYPE_ID] == "", keys.CELL_TYPE]) - {""})),
        donors=tuple(sorted(donors | {donor.rpartition(":")[2] for donor in donors})),
    )
