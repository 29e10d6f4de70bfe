"""The sections of the configuration: every field of every stage, with its bounds and its help text.

Defaults are the paper's (Sec. 5.1), where it names them.
"""

from siamdiff.sections.common import Cluster, ImageFormat, Precision, Section, Split
from siamdiff.sections.data import FOR_IMAGES, FOR_PHANTOMS, MAX_TEXT, PHANTOM, Box, Data, Layout
from siamdiff.sections.evaluate import EXTRACTORS, LPIPS_PREFIX, SYNTHETIC, Evaluate
from siamdiff.sections.experiment import Experiment
from siamdiff.sections.generate import Gates, Generate, Transforms
from siamdiff.sections.named import NEWEST, set_file
from siamdiff.sections.segment import Segment
from siamdiff.sections.train import Model, Train

__all__ = [
    "EXTRACTORS", "FOR_IMAGES", "FOR_PHANTOMS", "LPIPS_PREFIX", "MAX_TEXT", "NEWEST", "PHANTOM", "SYNTHETIC", "Box",
    "Cluster", "Data", "Evaluate", "Experiment", "Gates", "Generate", "ImageFormat", "Layout", "Model", "Precision",
    "Section", "Segment", "Split", "Train", "Transforms", "set_file",
]  # fmt: skip
