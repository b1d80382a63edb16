from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.k8s.terraform.folder import TERRAFORM

Change = Callable[[str, str, str], Path]


@pytest.fixture
def change(tmp_path: Path) -> Change:
    """A copy of the Terraform in which a text of a file is another one; may be called again for further changes."""
    folder = tmp_path / "terraform"
    shutil.copytree(TERRAFORM, folder)

    def replace(file: str, old: str, new: str) -> Path:
        path = folder / file
        text = path.read_text(encoding="utf-8")
        assert old in text, f"{file} no longer has {old!r}: plant the mistake elsewhere"
        path.write_text(text.replace(old, new, 1), encoding="utf-8")
        return folder

    return replace
