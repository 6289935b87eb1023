"""What can be known before a run exists is checked here, so that nothing is made for a run that cannot work.

In: a run's configuration, its first record and the ports. Out: nothing, or the error that a step would have met minutes
later.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from haystack_kernel.jobs import build_job_spec, build_manifest, check_settings
from haystack_kernel.knowledge import load_knowledge
from haystack_kernel.ports import ProgressEvent
from haystack_kernel.schema import DEMO_ATLAS
from haystack_kernel.store import locate

if TYPE_CHECKING:
    from haystack_kernel.ports import Ports
    from haystack_kernel.schema import RunConfig, StructuredQuery


def check_opening(config: RunConfig, ports: Ports, *, run_id: str) -> None:
    """Check the atlases, the planner, and the executor's settings.

    Files of this disk that a model needs are checked by :func:`haystack_kernel.config.options.build_config`.

    Raises
    ------
    NotFoundError
        An atlas does not exist.
    InvalidInputError
        The executor lacks a setting.
    """
    from haystack_kernel.atlas import atlas_info, local_root

    config = locate(config, ports, run_id=run_id)
    names = {*config.atlas_names} - {DEMO_ATLAS}  # the demo atlas is made when it is first opened
    root = local_root(ports.settings.atlas_root, cache=ports.settings.cache, names=names)
    for name in names:
        atlas_info(name, root)
    ports.planner_named(config.planner).check(config)
    if config.executor == "batch":
        manifest = build_manifest("", config=config, strategy=config.control_strategy, has_control=True)
        timeout_s = ports.settings.jobs.timeout_s
        spec = build_job_spec(manifest, run_id=run_id, round_number=1, manifest_uri="", timeout_s=timeout_s)
        check_settings(spec, ports.settings.batch)


def check_query(query: StructuredQuery, config: RunConfig, ports: Ports, *, run_id: str) -> None:
    """Check what the question and the options name against what the atlases and the user's own file hold.

    Raises
    ------
    NotFoundError
        The file of the user's own cells does not exist.
    NoCandidateError
        The question names a dataset, donor, tissue or disease that the atlases do not hold, or what is hidden or
        banned leaves no candidate.
    InvalidInputError
        A hidden treatment, a pin or a ban names nothing that is known, a pin is no candidate for this question, or the
        user's own cells cannot be query cells or are not those that the question is about.
    """
    from haystack_kernel.retrieval import (
        build_view,
        check_hidden,
        check_names,
        check_rules,
        open_cells,
        read_own_cells,
        search_candidates,
    )

    config, knowledge = locate(config, ports, run_id=run_id), load_knowledge(ports.settings.knowledge)
    if config.query_h5ad is not None:
        own = read_own_cells(config, query=query, knowledge=knowledge)
        ports.progress(ProgressEvent(run_id=run_id, phase="check", message=repr(own), fraction=1.0))
    atlas = open_cells(config, ports, query=query, run_id=run_id)
    if config.prompt_h5ad is not None:
        ports.progress(ProgressEvent(run_id=run_id, phase="check", message=repr(atlas), fraction=1.0))
    view = build_view(atlas, knowledge=knowledge, settings=ports.settings.retrieval, config=config)
    check_names(query, view)
    check_hidden(view)
    check_rules(view)
    if config.pin or config.ban or config.hide or config.prompt_h5ad:  # what is left, only the search knows
        search_candidates(query, atlas=atlas, knowledge=knowledge, settings=ports.settings.retrieval, config=config)
