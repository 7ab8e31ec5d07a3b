"""Settings every test shares. They must stand before torch and the Hugging Face libraries are imported."""

import atexit
import gc
import os
import shutil
import tempfile

import pytest

# One thread per test process: the models are toys, and pytest-xdist already fills the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# No test may reach the network or read what happens to lie in the user's cache.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["HF_EVALUATE_OFFLINE"] = "1"
if "PYTEST_XDIST_WORKER" not in os.environ:  # workers inherit the folder of the process that starts them
    os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="subtuning-hf-tests-")
    atexit.register(shutil.rmtree, os.environ["HF_HOME"], ignore_errors=True)


@pytest.fixture(scope="module", autouse=True)
def light_collections():
    """
    Keep what is alive between modules out of garbage collections.

    Every Trainer collects; late in a worker's life that takes longer than most tests here train.
    """
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True, scope="session")
def native_methods():
    """
    Let transformers' own methods for adapters run with the PEFT that is installed.

    transformers 5.24 refuses them below PEFT 0.22, which is not released; what they do is tested all the same. Remove
    when PEFT 0.22 is there.
    """
    import peft
    from packaging.version import Version
    from transformers.integrations import peft as native

    if Version(native.MIN_PEFT_VERSION) > Version(peft.__version__):
        native.MIN_PEFT_VERSION = peft.__version__
    yield
