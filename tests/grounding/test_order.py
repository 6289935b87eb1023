"""Each sub-package of grounding uses only those before it, so that a reader can open them one by one."""

import ast
from pathlib import Path

import haystack_kernel.grounding

ROOT = Path(haystack_kernel.grounding.__file__).parent
ORDER = ("de", "uncertainty", "nulls", "signatures", "components", "confidence")


def test_each_sub_package_uses_only_those_before_it():
    wrong = []
    for place, name in enumerate(ORDER):
        for path in sorted((ROOT / name).glob("*.py")):
            imports = [
                node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.ImportFrom)
            ]
            parts = [node.module.removeprefix("haystack_kernel.grounding.").split(".")[0] for node in imports]
            wrong += [f"{name}/{path.name} uses {part}" for part in parts if part in ORDER[place + 1 :]]
    assert {path.name for path in ROOT.iterdir() if (path / "__init__.py").exists()} == set(ORDER)
    assert not wrong
