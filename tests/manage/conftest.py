"""A scored run of two rounds on the tiny atlas; tests read it, fork it, compare it."""

from dataclasses import replace

import pytest

from haystack_kernel import flow
from haystack_kernel.config.connect import connect
from haystack_kernel.run import new_record

QUESTION = "How would B cells respond to IFN-beta?"


def make_ports(settings, executor_class):
    made = connect(settings)
    return replace(made, executors={"local": executor_class(made.clock)})


@pytest.fixture(scope="session")
def world(tmp_path_factory, tiny_atlas_root):
    """Settings on the tiny atlas, for the whole session."""
    from haystack_kernel.config.settings import load_settings

    folder = tmp_path_factory.mktemp("world")
    return load_settings(
        layer="test",
        storage=str(folder / "store"),
        atlas_root=str(tiny_atlas_root),
        knowledge=str(folder / "knowledge"),
        cache=str(folder / "cache"),
        atlases=["tiny"],
        grounding={"n_draws": 199},  # so high that every round has feedback
        rounds={"maximum": 2},
        inference={"n_prompt": 60, "n_query": 24, "engine": "weighted"},
        jobs={"poll_s": 0.05},
    )


@pytest.fixture(scope="session")
def inline():
    """The executor class that runs jobs in this process."""
    import sys
    from pathlib import Path

    name = "haystack_conftest"
    if name not in sys.modules:
        import importlib.util

        path = Path(__file__).parents[1] / "conftest.py"
        spec = importlib.util.spec_from_file_location(name, path)
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name].InlineExecutor


@pytest.fixture(scope="session")
def world_ports(world, inline):
    return make_ports(world, inline)


@pytest.fixture(scope="session")
def parent(world, world_ports):
    """Two rounds, scored and decided, not published; read only."""
    from haystack_kernel.config.options import build_config

    record = new_record(QUESTION, run_id=None, config=build_config(world, threshold=10), ports=world_ports)
    record = flow.work(world_ports.store.create(record), world_ports, until="interpret")
    assert len(record.rounds) == 2
    return record
