"""A local Google Cloud Batch: the service's own protocol buffers, containers as processes of this machine.

In: calls of the real clients. Out: jobs that move one state further each time they are looked at, QUEUED -> SCHEDULED
-> RUNNING -> end, with the events and the wording of the real service; their time is a counter, so nothing waits.
A :class:`Plan` says what goes wrong with a job, :meth:`BatchServer.fail` what goes wrong with a call. Cloud Logging
answers beside it with what the processes wrote.
"""

import os
import re
import subprocess
import sys
import threading
import time
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
from google.cloud import batch_v1
from google.cloud.logging_v2.types import ListLogEntriesRequest, ListLogEntriesResponse, LogEntry
from google.longrunning import operations_pb2

ROOT = Path(__file__).resolve().parents[2]
LIGHT = (sys.executable, str(Path(__file__).with_name("light_inference.py")))
REAL = "inference.run_inference"  # forked by tests/workers.py, as the orchestrator is
State = batch_v1.JobStatus.State
TaskState = batch_v1.TaskStatus.State
ENDED = (State.SUCCEEDED, State.FAILED, State.CANCELLED)
PATIENCE_S = 20  # real ones, of a look at a running job
STEP_S, RUN_S = 60, 300  # the counter's seconds for a state and for a run
QUOTA_ZERO = (
    "CODE_GCE_QUOTA_EXCEEDED: Quota 'NVIDIA_A100_GPUS' exceeded. Limit: 0.0 in region us-central1. This is an error "
    "of the instance group manager"
)
QUOTA = "CODE_GCE_QUOTA_EXCEEDED: Quota 'NVIDIA_A100_GPUS' exceeded. Limit: 8.0 in region us-central1."
STOCKOUT = (
    "CODE_GCE_ZONE_RESOURCE_POOL_EXHAUSTED: The zone 'projects/p/zones/us-central1-a' does not have enough resources "
    "available to fulfill the request."
)
INVALID = "non-retryable information: CODE_GCE_INVALID_FIELD_VALUE: Invalid value for field 'resource.machineType'."


@dataclass
class Plan:
    """What becomes of one job."""

    waits: str = ""  # an event that it shows while it is queued, where it then stays
    end: int | None = None  # exit code of its tasks whatever the program does, e.g. 50001; None: the program's own
    only: tuple[int, ...] | None = None  # indexes of the tasks that ``end`` hits; None: all
    is_idle: bool = False  # it runs for ever without doing anything
    boots_for_ever: bool = False  # it gets a machine that never begins to work
    says: str = ""  # a line in its log before the program's own
    is_dead: bool = False  # its program is one that ends at once without doing anything
    variables: dict[str, str] = field(default_factory=dict)  # for the program
    events_after: int = 0  # looks at its tasks before they show; -1: never
    is_terse: bool = False  # the job's own events name no exit code
    states: tuple[int, ...] = ()  # shown first, one each look


@dataclass
class Pause:
    """The service holds a call before it acts, or its answer, until ``over``; ``reached`` says that it does."""

    reached: threading.Event = field(default_factory=threading.Event)
    over: threading.Event = field(default_factory=threading.Event)


@dataclass
class _Job:
    job: batch_v1.Job
    plan: Plan
    tasks: list[batch_v1.Task] = field(default_factory=list)
    n_looks_at_tasks: int = 0
    shown: int = 0
    processes: list[subprocess.Popen] = field(default_factory=list)


class BatchServer:
    """State of the service; ``started`` names the jobs that got a machine, in order: what is paid for."""

    def __init__(self, program, *, remembers_requests=False, patience_s=PATIENCE_S):
        self.address = ""
        self.jobs = {}
        self.plans = []
        self.started = []
        self.overlaps = []  # jobs made while another attempt of the same job lived
        self.calls = []
        self.logs = {}
        self.remembers_requests = remembers_requests
        self.pauses = {}  # (method, is_after) -> Pause
        self._program = program
        self._patience_s = patience_s
        self._requests = {}
        self._failures = {}
        self._now = datetime(2026, 1, 2, tzinfo=UTC)
        self._lock = threading.RLock()

    # --- faults ---

    def fail(self, method, *, code=grpc.StatusCode.UNAVAILABLE, times=1, text="try again", is_lost=False):
        """The next ``times`` calls end in an error; ``is_lost``: after they did what they were asked."""
        self._failures.setdefault(method, []).extend([(code, text, is_lost)] * times)

    def vanish(self, job_id):
        """Somebody deletes the job."""
        with self._lock:
            del self.jobs[job_id]

    def cancel_in_console(self, job_id):
        """Somebody presses the button."""
        with self._lock:
            self._move(self.jobs[job_id], State.CANCELLED)

    # --- calls ---

    def create_job(self, request, context):
        job_id = request.job_id
        if not re.fullmatch(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", job_id):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"bad job id {job_id}")
        if self.remembers_requests and request.request_id in self._requests:
            return self._requests[request.request_id]
        if job_id in self.jobs:
            context.abort(grpc.StatusCode.ALREADY_EXISTS, f"Resource {job_id} already exists")
        job = request.job
        job.name, job.uid = f"{request.parent}/jobs/{job_id}", f"uid-{job_id}"
        job.create_time = self._now
        job.status = batch_v1.JobStatus(state=State.QUEUED)
        same = [held.job for held in self.jobs.values() if held.job.labels["job"] == job.labels["job"]]
        self.overlaps += [job_id for other in same if other.status.state not in ENDED]
        plan = self.plans.pop(0) if self.plans else Plan()
        self.jobs[job_id] = _Job(job, plan)
        self.logs[job.uid] = f"{plan.says}\n" if plan.says else ""
        self._requests[request.request_id] = job
        return job

    def get_job(self, request, context):
        held = self._find(request.name, context)
        if held.shown < len(held.plan.states):
            shown = batch_v1.Job.deserialize(batch_v1.Job.serialize(held.job))
            batch_v1.Job.pb(shown).status.state = held.plan.states[held.shown]
            held.shown += 1
            return shown
        self._advance(held)
        return held.job

    def cancel_job(self, request, context):
        held = self._find(request.name, context)
        if held.job.status.state in ENDED:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "the job has ended")
        for process in held.processes:
            process.kill()
            process.wait()
        held.job.status.state = State.CANCELLATION_IN_PROGRESS
        return operations_pb2.Operation(name=f"{request.name}/operations/cancel")

    def delete_job(self, request, context):
        raise NotImplementedError

    def list_jobs(self, request, context):
        value = re.fullmatch(r'labels\.app="(.*)"', request.filter).group(1)
        found = [held.job for held in self.jobs.values() if held.job.labels.get("app") == value]
        return batch_v1.ListJobsResponse(jobs=found)

    def list_tasks(self, request, context):
        held = self._find(request.parent.partition("/taskGroups/")[0], context)
        held.n_looks_at_tasks += 1
        is_late = held.plan.events_after < 0 or held.n_looks_at_tasks <= held.plan.events_after
        if is_late:
            context.abort(grpc.StatusCode.NOT_FOUND, "no tasks")
        return batch_v1.ListTasksResponse(tasks=held.tasks)

    def list_log_entries(self, request, context):
        uid = re.search(r'labels\.job_uid="([^"]+)"', request.filter).group(1)
        lines = self.logs.get(uid, "").splitlines()[-request.page_size :]
        entries = [LogEntry(text_payload=line) for line in reversed(lines)]
        return ListLogEntriesResponse(entries=entries)

    # --- the life of a job ---

    def _find(self, name, context):
        held = self.jobs.get(name.rpartition("/")[2])
        if held is None:
            context.abort(grpc.StatusCode.NOT_FOUND, f"Resource {name} was not found")
        return held

    def _advance(self, held):
        state = held.job.status.state
        if state == State.CANCELLATION_IN_PROGRESS:
            self._move(held, State.CANCELLED)
        elif state == State.QUEUED and held.plan.waits:
            if not held.job.status.status_events:
                self._say(held, held.plan.waits)
        elif state == State.QUEUED:
            self._move(held, State.SCHEDULED)
        elif state == State.SCHEDULED and not held.plan.boots_for_ever:
            self._move(held, State.RUNNING)
            self.started.append(held.job.name.rpartition("/")[2])
            self._start(held)
        elif state == State.RUNNING and not held.plan.is_idle and self._have_ended(held):
            self._finish(held)

    def _start(self, held):
        if held.plan.is_idle:
            return
        group = held.job.task_groups[0]
        container = group.task_spec.runnables[0].container
        for index in range(group.task_count):
            hit = held.plan.only is None or index in held.plan.only
            variables = {
                **group.task_spec.environment.variables,
                "BATCH_TASK_INDEX": str(index),
                "BATCH_TASK_COUNT": str(group.task_count),
                **(held.plan.variables if hit else {}),
            }
            held.processes.append(self._process(held.plan, container, variables))

    def _process(self, plan, container, variables):
        """What stands for a container: a process of this machine, or of a command that the caller makes of it."""
        words = list(container.commands)
        is_kernel = container.entrypoint == "haystack"
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
        if not plan.is_dead and not callable(self._program) and (is_kernel or self._program == REAL):
            from tests.workers import KERNEL, Program

            module = KERNEL if is_kernel else REAL
            return Program(*words, environment=environment, module=module, is_merged=True)
        command = self._program(container, variables) if callable(self._program) else [*self._program, *words]
        return subprocess.Popen(
            ["true"] if plan.is_dead else command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def _have_ended(self, held):
        """Whether all processes have; they are given a while, so that a clock that does not wait is no hurry."""
        deadline = time.monotonic() + self._patience_s
        for process in held.processes:
            try:
                process.wait(max(deadline - time.monotonic(), 0))
            except subprocess.TimeoutExpired:
                return False
        return True

    def _finish(self, held):
        codes = []
        for index, process in enumerate(held.processes):
            text, _ = process.communicate()
            self.logs[held.job.uid] = self.logs.get(held.job.uid, "") + text
            hit = held.plan.end is not None and (held.plan.only is None or index in held.plan.only)
            codes.append(held.plan.end if hit else process.returncode)
        self._now += timedelta(seconds=RUN_S)
        held.tasks = [self._task(held, index, code) for index, code in enumerate(codes)]
        done = batch_v1.JobStatus.TaskGroupStatus(counts={"SUCCEEDED": codes.count(0)})
        held.job.status.task_groups = {"group0": done}
        bad = [(index, code) for index, code in enumerate(codes) if code]
        self._move(held, State.FAILED if bad else State.SUCCEEDED, bad=bad)

    def _task(self, held, index, code):
        state = TaskState.FAILED if code else TaskState.SUCCEEDED
        end = batch_v1.StatusEvent(description=_task_text(index, code), event_time=self._now)
        if code:
            end.task_execution = batch_v1.TaskExecution(exit_code=code)
        start = batch_v1.StatusEvent(description="Task state is updated from ASSIGNED to RUNNING")
        start.event_time = self._now - timedelta(seconds=RUN_S)
        name = f"{held.job.name}/taskGroups/group0/tasks/{index}"
        return batch_v1.Task(name=name, status=batch_v1.TaskStatus(state=state, status_events=[end, start]))

    def _move(self, held, state, *, bad=()):
        before = State(held.job.status.state).name
        text = f"Job state is set from {before} to {state.name} for job {held.job.name}."
        if bad and held.plan.is_terse:
            text = f"Job state is set from {before} to {state.name} for job {held.job.name} due to task failures."
        elif bad:
            text += f" Job failed due to task failures. For example, task with index {bad[0][0]} failed, failed task "
            text += f"event description is {_task_text(*bad[0])}"
        self._say(held, text)
        held.job.status.state = state

    def _say(self, held, text):
        self._now += timedelta(seconds=STEP_S)
        event = batch_v1.StatusEvent(type_="STATUS_CHANGED", description=text, event_time=self._now)
        held.job.status.status_events = [event, *held.job.status.status_events]  # newest first: not to be relied on

    # --- serving ---

    def answer(self, method, request, context):
        """One call, under one lock, with the failure or the pause that was asked for."""
        self._pause(method, is_after=False)
        try:
            return self._answer(method, request, context)
        finally:
            self._pause(method, is_after=True)

    def _pause(self, method, *, is_after):
        pause = self.pauses.get((method, is_after))
        if pause is not None:
            pause.reached.set()
            pause.over.wait(600)

    def _answer(self, method, request, context):
        with self._lock:
            self.calls.append(method)
            waiting = self._failures.get(method, [])
            code, text, is_lost = waiting.pop(0) if waiting else (None, "", False)
            if code is not None and not is_lost:
                context.abort(code, text)
            made = getattr(self, method)(request, context)
            if is_lost:
                context.abort(code, text)
            return made


def _task_text(index, code):
    return (
        f"Task state is updated from RUNNING to {'FAILED' if code else 'SUCCEEDED'} on "
        f"zones/us-central1-a/instances/{index}{f' with exit code {code}' if code else ''}."
    )


def _handlers(server):
    batch = {
        "CreateJob": ("create_job", batch_v1.CreateJobRequest, batch_v1.Job),
        "GetJob": ("get_job", batch_v1.GetJobRequest, batch_v1.Job),
        "CancelJob": ("cancel_job", batch_v1.CancelJobRequest, None),
        "DeleteJob": ("delete_job", batch_v1.DeleteJobRequest, None),
        "ListJobs": ("list_jobs", batch_v1.ListJobsRequest, batch_v1.ListJobsResponse),
        "ListTasks": ("list_tasks", batch_v1.ListTasksRequest, batch_v1.ListTasksResponse),
    }
    logging = {"ListLogEntries": ("list_log_entries", ListLogEntriesRequest, ListLogEntriesResponse)}

    def handler(method, request_type, answer_type):
        serializer = answer_type.serialize if answer_type else operations_pb2.Operation.SerializeToString
        return grpc.unary_unary_rpc_method_handler(
            lambda request, context: server.answer(method, request, context),
            request_deserializer=request_type.deserialize,
            response_serializer=serializer,
        )

    return [
        grpc.method_handlers_generic_handler(service, {name: handler(*parts) for name, parts in methods.items()})
        for service, methods in (
            ("google.cloud.batch.v1.BatchService", batch),
            ("google.logging.v2.LoggingServiceV2", logging),
        )
    ]


@contextmanager
def batch_server(program=LIGHT, *, remembers_requests=False, patience_s=PATIENCE_S):
    """A running server; give its ``address`` to HAYSTACK_BATCH__ENDPOINT, with HAYSTACK_BATCH__INSECURE.

    ``program`` is what runs in place of an inference container: words, or a function of the container and its
    variables that returns the words for any container. A look at a running job waits ``patience_s`` for its end, and
    other calls wait with it.
    """
    state = BatchServer(program, remembers_requests=remembers_requests, patience_s=patience_s)
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
    server.add_generic_rpc_handlers(_handlers(state))
    state.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield state
    finally:
        server.stop(None).wait()
        for held in state.jobs.values():
            for process in held.processes:
                if process.poll() is None:
                    process.kill()
                process.wait()
                if process.stdout is not None:
                    process.stdout.close()
