"""What a person sees of a job: our own lines, and warnings of the libraries below."""

import logging
import os
import sys
import warnings

from huggingface_hub.utils import logging as hub_logging

from infra.exporting import watch_store

CHATTY = ("DeepSpeed", "aiobotocore", "botocore", "fsspec", "httpx", "ray", "s3fs")


def in_job() -> None:
    """Logging of the job's own process: to stderr, with the time."""
    _quiet()
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr
    )


def in_worker(uses_gpu: bool) -> None:
    """Prepares a process on the cluster: its log, whose lines Ray passes on to the job, its metrics and its device.

    Called first thing there. Without a GPU booked none is touched: Ray hides them only from processes that book some.
    """
    if not uses_gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        os.environ["DS_ACCELERATOR"] = "cpu"
    _quiet()
    watch_store()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    from siamdiff.training.speed import forbid_tf32

    forbid_tf32()
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()


def _quiet() -> None:
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    # else it tells of every attempt at a hub that cannot be reached, above the line that says what to do
    hub_logging.set_verbosity_error()
    # torch 2.13 on DeepSpeed 0.19's use of its collectives, at every step
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
