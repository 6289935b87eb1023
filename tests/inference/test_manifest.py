from __future__ import annotations

import json

import pytest

from inference.manifest import (
    Manifest,
    ManifestError,
    Task,
    TaskResult,
    dump_manifest,
    dump_result,
    parse_manifest,
    parse_result,
)

TASK = Task(id="treated", prompt="p", query="q", output="o", seed=1, engine="shift", control="c")


def _edited(**changes):
    return json.dumps({**json.loads(dump_manifest(Manifest(tasks=(TASK,)))), **changes})


def _task(**changes):
    return {**json.loads(dump_manifest(Manifest(tasks=(TASK,))))["tasks"][0], **changes}


def test_manifest_goes_round():
    embedding = Task("c", None, "q", "o3", 0, "stack", kind="embed")
    manifest = Manifest(
        tasks=(TASK, Task("b", "p", "q", "o2", 2, "none"), embedding),
        model="gs://b/m",
        genelist="gs://b/g",
        diffusion_steps=3,
        threads=2,
        precision="bf16",
    )
    assert parse_manifest(dump_manifest(manifest)) == manifest
    assert dump_manifest(parse_manifest(dump_manifest(manifest))) == dump_manifest(manifest)


def test_manifest_of_an_earlier_release_is_read():
    assert parse_manifest(_edited(fixed_prompt=False)) == parse_manifest(_edited())
    with pytest.raises(ManifestError, match=r"no field \['fixed_prompt'\]"):
        parse_manifest(_edited(fixed_prompt=True))


def test_result_goes_round():
    result = TaskResult("a", "shift", "o", "ab", 1, 2, 0.5, 1.0, 0.1, 3, {"numpy": "2"}, {"prompt": "ff"}, ("note",))
    assert parse_result(dump_result(result)) == result


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{", "not valid JSON"),
        ("[]", "must be a JSON object"),
        (_edited(version=2), "manifest version 2"),
        (_edited(tasks=[]), "non-empty list"),
        (_edited(tasks=["x"]), "each task must be a JSON object"),
        (_edited(extra=1), r"no field \['extra'\]"),
        (_edited(tasks=[_task(extra=1)]), r"no field \['extra'\]"),
        (_edited(tasks=[{"id": "a"}]), "Task is incomplete"),
        (
            _edited(tasks=[_task(engine="no name")]),
            "unknown engine 'no name'; possible: none, mean, shift, weighted, additive",
        ),
        (_edited(tasks=[_task(engine="stack")]), "'stack'.*'treated'.*needs 'model' and 'genelist'"),
        (_edited(tasks=[_task(engine="stack")], model="m"), "needs 'genelist'"),
        (_edited(model=""), "'model' must be an address"),
        (_edited(threads=0), "'threads' must be a whole number of at least 1"),
        (_edited(threads=1.5), "'threads' must be"),
        (_edited(diffusion_steps=True), "'diffusion_steps' must be"),
        (_edited(prompt_ratio=-0.1), "'prompt_ratio' must be a number from 0"),
        (_edited(context_ratio="x"), "'context_ratio' must be a number"),
        (_edited(context_ratio=float("nan")), "'context_ratio' must be a number"),
        (_edited(context_ratio=0.75), r"'prompt_ratio' \+ 'context_ratio' \(1\)"),
        (_edited(prompt_ratio=0, context_ratio_min=0), "between 0 and 1"),
        (_edited(mode="fast"), "'mode' is 'fast'; possible: mdm, vanilla"),
        (_edited(output_mode=None), "'output_mode' is None; possible: sampled, expected, exact"),
        (_edited(precision="int4"), "'precision' is 'int4'; possible: auto, fp32, bf16"),
        (_edited(device="tpu"), "'device' is 'tpu'; possible: auto, cpu, cuda or cuda:<number>"),
        (_edited(tasks=[_task(), _task(output="o2")]), "differ in 'id'"),
        (_edited(tasks=[_task(), _task(id="b")]), "differ in 'output'"),
        (_edited(tasks=[_task(seed="1")]), "'seed' must be a whole number"),
        (_edited(tasks=[_task(output="")]), "'output' must be a non-empty string"),
        (_edited(tasks=[_task(control=3)]), "'control' must be"),
        (_edited(batch_size=0), "'batch_size' must be"),
        (_edited(tasks=[_task(prompt=None)]), "'prompt' must be a non-empty string, got None"),
        (_edited(tasks=[_task(kind="draw")]), "unknown kind 'draw'; possible: generate, embed"),
        (_edited(tasks=[_task(kind="embed", engine="stack")]), "'embed' reads the query cells alone"),
        (_edited(tasks=[_task(kind="embed", prompt=None, engine="stack")]), "'embed' reads the query cells alone"),
        (_edited(tasks=[_task(kind="embed", prompt=None, control=None)]), "'shift' has no embedding"),
    ],
)
def test_manifest_that_cannot_run_is_refused(text, match):
    with pytest.raises(ManifestError, match=match):
        parse_manifest(text)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"notes": 3}'])
def test_result_that_is_none_is_refused(text):
    with pytest.raises(ManifestError):
        parse_result(text)
