"""What a person sees of a job: our own lines, and warnings of the libraries below."""

import logging
import os
import sys
import warnings

CHATTY = ("DeepSpeed", "aiobotocore", "botocore", "fsspec", "httpx", "ray", "s3fs")


def in_job() -> None:
    """Logging of the job's own process: to stderr, with the time."""
    _quiet()
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr
    )


def in_worker() -> None:
    """Logging of a process on the cluster, whose lines Ray passes on to the job. Called first thing there."""
    _quiet()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
    import torch
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # otherwise DeepSpeed warns that it found no GPU
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()


def _quiet() -> None:
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    # torch 2.13 on DeepSpeed 0.19's use of its collectives, at every step
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
