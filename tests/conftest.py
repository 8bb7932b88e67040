"""Makes the helper modules of this folder (``builders``) importable from every test below it."""

import os

import pytest

# Before torch and numpy are imported, here and in workers: threads of several processes wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

pytest_plugins = ["pytester"]


@pytest.fixture
def one_thread():
    """Threads that wait for each other cost small maps more than they save."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
