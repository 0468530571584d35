"""What the documentation must have and no builder checks."""

import inspect
import re
from importlib import import_module
from pathlib import Path

import pytest

import sklstm

ROOT = Path(__file__).parents[1]
ROOMS = {"inspection", "monitors", "plotting"}


def code_blocks(name):
    return re.findall(r"```python\n.*?```", (ROOT / name).read_text("utf-8"), re.DOTALL)


def test_the_chinese_readme_has_the_code_of_the_english_one():
    assert code_blocks("README.zh-CN.md") == code_blocks("README.md") != []


@pytest.mark.parametrize("module", sorted(ROOMS))
def test_api_reference_has_every_public_name(module):
    listed = set(re.findall(r"^   ([\w.]+)$", (ROOT / "docs/api.md").read_text(), re.M))
    assert set(sklstm.__all__) - ROOMS <= listed
    room = import_module(f"sklstm.{module}")
    public = {
        f"{module}.{name}"
        for name, thing in vars(room).items()
        if not name.startswith("_")
        and inspect.getmodule(thing) is room
        and (inspect.isclass(thing) or inspect.isfunction(thing))
    }
    assert public <= listed
