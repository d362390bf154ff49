"""What every test runs under: annotations checked as code runs, one thread, no hub, no display."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ["HF_HUB_OFFLINE"] = "1"

import hypothesis
from jaxtyping import install_import_hook

install_import_hook("bonbon", "beartype.beartype")

# Same examples on every run; no deadline, since the cores are shared and models load slowly.
hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True)
hypothesis.settings.load_profile("repeatable")
