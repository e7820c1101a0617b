#!/usr/bin/env python3
"""Classifies an image with a network that `dimbit export` wrote, as TorchScript or ONNX.

    use-in-python.py FILE IMAGE_OR_NPY

A TorchScript file needs PyTorch and nothing else, an ONNX file (its name ends in
.onnx) ONNX Runtime. This example also needs NumPy, PyTorch and, for pictures, Pillow. IMAGE_OR_NPY is a picture, or an array: bytes [height, width]
or [height, width, channels], or a batch as the network takes it, float32
[batch, channels, height, width].
"""

import json
import sys

import numpy
import torch


def load(path):
    """What makes logits and, from TorchScript, each site's codes of images; what the file tells of itself."""
    if path.endswith(".onnx"):
        return load_onnx(path)
    extra = {"dimbit.json": ""}
    network = torch.jit.load(path, map_location="cpu", _extra_files=extra)
    return network.forward_and_codes, json.loads(extra["dimbit.json"])


def load_onnx(path):
    """The same of an ONNX file, which gives the logits alone."""
    import onnxruntime
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(images):
        return torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0]), {}
    return run, json.loads(session.get_modelmeta().custom_metadata_map["dimbit.json"])


def pixels_of(path):
    """A picture or array as [height, width, channels] bytes, or a whole batch."""
    if path.endswith(".npy"):
        array = numpy.load(path)
        return array[:, :, None] if array.ndim == 2 else array
    from PIL import Image
    picture = Image.open(path)
    picture = picture.convert("L" if picture.mode in ("1", "L") else "RGB")
    return numpy.atleast_3d(numpy.asarray(picture))


def prepare(pixels, about):
    """One image as the network takes it: centred on black or cropped to its size, normalised."""
    channels, height, width = about["shape"]
    image = torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255
    top, left = (height - image.shape[1]) // 2, (width - image.shape[2]) // 2
    # Negative amounts crop.
    image = torch.nn.functional.pad(
        image, (left, width - image.shape[2] - left, top, height - image.shape[1] - top))
    mean, std = (torch.tensor(about[key])[:, None, None] for key in ("mean", "std"))
    return ((image.expand(channels, -1, -1) - mean) / std)[None]


def main():
    if len(sys.argv) != 3:
        sys.exit("usage: use-in-python.py FILE IMAGE_OR_NPY")
    run, about = load(sys.argv[1])
    print(f"{len(about['sites'])} compressed sites, {about['bits_per_value']:.4f} bits per value")
    pixels = pixels_of(sys.argv[2])
    images = torch.from_numpy(pixels) if pixels.ndim == 4 else prepare(pixels, about["input"])
    with torch.no_grad():
        logits, codes = run(images)
    for site, values in codes.items():
        print(f"{site}: codes {list(values.shape)}, from {values.min()} to {values.max()}" if values.numel()
              else f"{site}: nothing is stored")
    for number, probabilities in enumerate(logits.softmax(1)):
        best = int(probabilities.argmax())
        print(f"image {number}: class {best} ({100 * probabilities[best]:.1f} %)")


if __name__ == "__main__":
    main()
