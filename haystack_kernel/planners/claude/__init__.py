"""A planner that asks Claude, under control: its words and choices are checked, its cost is capped, all is recorded."""

from haystack_kernel.planners.claude.cost import estimate_planner
from haystack_kernel.planners.claude.planner import ClaudePlanner, ReplayPlanner, prompts_digest

__all__ = ["ClaudePlanner", "ReplayPlanner", "estimate_planner", "prompts_digest"]
