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
from inference.manifest import MODEL_ENGINE

if TYPE_CHECKING:
    from haystack_kernel.ports import Ports
    from haystack_kernel.schema import RunConfig, StructuredQuery


def check_opening(config: RunConfig, ports: Ports, *, run_id: str) -> None:
    """Check the atlases, the planner, the executor's settings and the user's own cells.

    Files of this disk that a model needs are checked by :func:`haystack_kernel.config.options.build_config`.

    Raises
    ------
    NotFoundError
        An atlas or a file does not exist.
    InvalidInputError
        The executor lacks a setting, or the cells cannot be query cells.
    """
    from haystack_kernel.atlas import atlas_info

    config = config.located()
    for name in {*config.atlas_names} - {DEMO_ATLAS}:  # the demo atlas is made when it is first opened
        atlas_info(name, ports.settings.atlas_root)
    ports.planner_named(config.planner)
    if config.executor == "batch":
        manifest = build_manifest("", config=config, strategy=config.control_strategy, has_control=True)
        timeout_s = ports.settings.jobs.timeout_s
        spec = build_job_spec(manifest, run_id=run_id, round_number=1, manifest_uri="", timeout_s=timeout_s)
        check_settings(spec, ports.settings.batch)
    if config.query_h5ad is not None:
        from haystack_kernel.retrieval import check_query_h5ad

        found = check_query_h5ad(config.query_h5ad, genelist=config.genelist if config.engine == MODEL_ENGINE else None)
        ports.progress(ProgressEvent(run_id=run_id, phase="check", message=repr(found)))
        found.require()


def check_query(query: StructuredQuery, config: RunConfig, ports: Ports) -> None:
    """Check what the question and the options name against what the atlases hold.

    Raises
    ------
    NoCandidateError
        The question names a dataset, donor, tissue or disease that the atlases do not hold.
    InvalidInputError
        A hidden pair, a pin or a ban names nothing in the atlases, or a pin is no candidate for this question.
    """
    from haystack_kernel.retrieval import build_view, check_names, check_rules, search_candidates

    config = config.located()
    atlas, knowledge = ports.open_atlas(config.atlas_names), load_knowledge(ports.settings.knowledge)
    view = build_view(atlas, knowledge=knowledge, settings=ports.settings.retrieval, config=config)
    check_names(query, view)
    check_rules(view)
    if config.pin:  # which candidates a question has, only the search knows
        search_candidates(query, atlas=atlas, knowledge=knowledge, settings=ports.settings.retrieval, config=config)
