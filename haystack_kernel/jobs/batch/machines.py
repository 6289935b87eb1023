"""Presets of machines of Google Cloud, each a machine type with the accelerator that it really has.

In: the name of a preset. Out: a Machine; pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from haystack_kernel.errors import InvalidInputError

if TYPE_CHECKING:
    from haystack_kernel.schema import BatchSettings, JobSpec


@dataclass(frozen=True)
class Machine:
    """A machine type, its resources, and what a task asks of it by default."""

    name: str
    machine_type: str
    n_cpus: int
    memory_gib: int
    cpu_milli: int
    memory_mib: int
    accelerator: str = ""  # empty: no GPU
    n_accelerators: int = 0

    @property
    def words(self) -> str:
        """Preset and machine type, as shown to the user."""
        return f"{self.name} ({self.machine_type})"


MACHINES = {
    machine.name: machine
    for machine in (
        Machine("a100-40gb", "a2-highgpu-1g", 12, 85, 4000, 85_000, "nvidia-tesla-a100", 1),
        Machine("a100-80gb", "a2-ultragpu-1g", 12, 170, 4000, 85_000, "nvidia-a100-80gb", 1),
        Machine("l4", "g2-standard-8", 8, 32, 4000, 28_000, "nvidia-l4", 1),
        Machine("l4-large", "g2-standard-16", 16, 64, 4000, 58_000, "nvidia-l4", 1),
        Machine("cpu", "e2-standard-4", 4, 16, 4000, 14_000),
        Machine("cpu-large", "e2-highmem-8", 8, 64, 8000, 58_000),
    )
}


def machine_of(spec: JobSpec, settings: BatchSettings) -> Machine:
    """Return the machine that a job runs on: one with a GPU only if a task uses a model, or an engine needs one."""
    needs_gpu = spec.kind == "inference" and (spec.needs_gpu or not set(spec.engines).isdisjoint(settings.gpu_engines))
    return find_machine(settings.machine if needs_gpu else settings.cpu_machine)


def find_machine(name: str) -> Machine:
    """Return the preset ``name``; raises InvalidInputError, which lists the presets, if there is none."""
    if name not in MACHINES:
        known = ", ".join(machine.words for machine in MACHINES.values())
        msg = f"machine {name!r} is unknown; set batch.machine or batch.cpu_machine to one of {known}"
        raise InvalidInputError(msg, machine=name)
    return MACHINES[name]
