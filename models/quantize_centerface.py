"""Makes CenterFace of whole numbers: twice as fast on a processor.

    python3 quantize_centerface.py centerface.onnx centerface_int8.onnx CLIP...

Weights and what flows between layers get 8 bits, by the ranges that are met in frames of the clips (those of `make clips`), as
they are, dark, noisy, blurred, turned and small. The first two layers and the outputs keep their floats: in those two lies
nearly all of the loss. Weights use 7 of their bits, so that processors without VNNI do not saturate and all find the same. Needs
the packages onnx, onnxruntime and opencv-python-headless.
"""

import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnx.version_converter
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

INPUT = "input.1"
# The numbers that the last layers give: scores before their sigmoid, scores, sizes, offsets, landmarks.
HEADS = {"536", "537", "538", "539", "540"}
FLOAT_LAYERS = 2
FRAMES = 8
LONGEST = 640


def multiple(side: float) -> int:
    return int(np.ceil(side / 32) * 32)


def pictures(clip: str):
    """Frames of a clip, each with one that is harder to see."""
    video = cv2.VideoCapture(clip)
    frames = []
    while True:
        more, frame = video.read()
        if not more:
            break
        frames.append(frame)
    noise = np.random.default_rng(1)
    for k, i in enumerate(np.linspace(0, len(frames) - 1, FRAMES).astype(int)):
        height, width = frames[i].shape[:2]
        scale = LONGEST / max(height, width)
        size = multiple(width * scale), multiple(height * scale)
        frame = cv2.resize(frames[i], size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        yield frame
        if k % 5 == 0:
            yield (frame * 0.25).astype(np.uint8)
        elif k % 5 == 1:
            yield np.clip(frame + noise.normal(0, 14, frame.shape), 0, 255).astype(np.uint8)
        elif k % 5 == 2:
            turn = cv2.getRotationMatrix2D((size[0] / 2, size[1] / 2), 50, 1)
            yield cv2.warpAffine(frame, turn, size)
        elif k % 5 == 3:
            yield cv2.resize(frame, (multiple(size[0] / 2), multiple(size[1] / 2)), interpolation=cv2.INTER_AREA)
        else:
            yield cv2.GaussianBlur(frame, (0, 0), 3)


class Pictures(CalibrationDataReader):
    def __init__(self, clips: list[str]) -> None:
        self.pictures = (picture for clip in clips for picture in pictures(clip))

    def get_next(self):
        picture = next(self.pictures, None)
        if picture is None:
            return None
        return {INPUT: picture[:, :, ::-1].transpose(2, 0, 1)[None].astype(np.float32)}


def main() -> None:
    source, target, *clips = sys.argv[1:]
    with tempfile.TemporaryDirectory() as scratch:
        newer, folded = Path(scratch, "newer.onnx"), Path(scratch, "folded.onnx")
        onnx.save(onnx.version_converter.convert_version(onnx.load(source), 13), newer)
        quant_pre_process(newer, folded, skip_symbolic_shape=True)
        model = onnx.load(folded)
        for node in model.graph.node:
            node.name = node.name or f"{node.op_type}_{node.output[0]}"
        onnx.save(model, folded)
        layers = [node.name for node in model.graph.node if node.op_type == "Conv"]
        heads = [node.name for node in model.graph.node if HEADS & set(node.output)]
        quantize_static(
            folded, target, Pictures(clips), quant_format=QuantFormat.QDQ, per_channel=True, reduce_range=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, nodes_to_exclude=heads + layers[:FLOAT_LAYERS])
    model = onnx.load(target)
    model.ir_version = 8
    onnx.checker.check_model(model)
    with open(target, "wb") as file:
        file.write(model.SerializeToString(deterministic=True))


main()
