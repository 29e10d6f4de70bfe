"""convert: from and to the authors' single file."""

import argparse

from siamdiff import storage


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command to those of `python -m siamdiff`."""
    text = (
        "A single file (Stable Diffusion 1.x, or the authors' merged_pytorch_model.pth) becomes a folder: a model if "
        "it holds a control network, else a base. A model's folder becomes the authors' file. Every tensor keeps its "
        "bits; pickles with code are refused."
    )
    parser = commands.add_parser("convert", help="from and to the authors' single file", description=text)
    parser.add_argument(
        "source", metavar="SOURCE", help="file (.safetensors, .ckpt, .pth, .pt) or model folder"
    )
    parser.add_argument("target", metavar="TARGET", help="folder, or file (.safetensors, .pth) of a model")
    parser.add_argument(
        "--base",
        help="folder in diffusers' layout, or hub id, with parts and configurations that the file lacks",
    )
    parser.add_argument(
        "--resolution", type=int, default=384, help="side of the images the model was trained on [384]"
    )
    parser.add_argument(
        "--license",
        default="unknown",
        help="of what the file holds; travels to models and synthetic sets [unknown]",
    )
    parser.add_argument(
        "--permitted-use", default="unknown", help="what it permits; travels likewise [unknown]"
    )
    parser.set_defaults(run=_convert)


def _convert(arguments: argparse.Namespace) -> int:
    from siamdiff.model import convert, sources  # PyTorch, which the other tools do without

    source, target = (storage.normalize(uri) for uri in (arguments.source, arguments.target))
    if sources.is_single_file(source):
        about = {name: getattr(arguments, name) for name in ("resolution", "license", "permitted_use")}
        print(convert.import_file(source, target, arguments.base, about))
    else:
        print(convert.export_model(source, target))
    return 0
