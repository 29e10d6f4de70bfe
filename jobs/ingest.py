"""Raw images and masks become a shard set.

    python jobs/ingest.py --data.source MYFOLDER --root s3://bucket/polyps
    python jobs/ingest.py                                     # the demo: phantoms

MYFOLDER holds images/ and masks/ with the same names, is laid out as PraNet's, ISIC's, nnU-Net's or Hugging Face's sets
are (docs/ingest.md), or is a .jsonl file of source, target, prompt.
"""

from infra.job import run

if __name__ == "__main__":
    run("infra.ingest:ingest", __doc__ or "")
