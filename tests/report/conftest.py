"""One audit of a real network for all tests of formats."""

from pathlib import Path

import pytest

import cnnaudit


@pytest.fixture(scope="session")
def audited():
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(Path(__file__).parents[2])
        return cnnaudit.audit("examples/digits/broken.audit.yaml", allow_imports=["examples/**.py"])
