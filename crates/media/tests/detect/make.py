"""Makes what the tests of the detectors compare with: pictures, what the models' reference decoders find in them, and
small models that are wrong in one way each.

    python3 make.py ASTRONAUT.png CHELSEA.png

Both pictures come with scikit-image (skimage/data): a portrait by NASA, in the public domain, and a cat, CC0. Needs numpy,
onnx, onnxruntime and opencv-python-headless.
"""

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

HERE = Path(__file__).parent
MODELS = HERE / "../../../../models"
COCO_IDS = [n for n in range(1, 91) if n not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]


def run(model, values):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(MODELS / model, options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: values})


def kept(boxes, overlap):
    """What OpenCV keeps of boxes x0, y0, x1, y1, score, class."""
    places = [[x0, y0, x1 - x0, y1 - y0] for x0, y0, x1, y1, *_ in boxes]
    indices = cv2.dnn.NMSBoxes(places, [box[4] for box in boxes], 0.0, overlap)
    return [boxes[i] for i in np.array(indices).flatten()]


def planes(rgb, scale, offset):
    return (rgb.astype(np.float32) * np.float32(scale) + np.float32(offset)).transpose(2, 0, 1)[None]


def centerface(rgb, floor):
    height, width = rgb.shape[:2]
    heat, size, offset, _ = run("centerface.onnx", planes(rgb, 1, 0))
    boxes = []
    for y, x in zip(*np.where(heat[0, 0] > floor)):
        h, w = np.exp(size[0, :, y, x]) * 4
        dy, dx = offset[0, :, y, x]
        x0, y0 = max(0, (x + dx + 0.5) * 4 - w / 2), max(0, (y + dy + 0.5) * 4 - h / 2)
        boxes.append((x0, y0, min(x0 + w, width), min(y0 + h, height), heat[0, 0, y, x], 0))
    return kept(boxes, 0.3)


def blaze(model, rgb, floor):
    side = rgb.shape[0]
    outputs = run(model, (rgb.astype(np.float32) / 127.5 - 1)[None])
    logits = np.concatenate(outputs[:2], 1)[0, :, 0]
    places = np.concatenate(outputs[2:], 1)[0]
    anchors = [
        ((x + 0.5) / n, (y + 0.5) / n) for n, k in ((16, 2), (8, 6)) for y in range(n) for x in range(n) for _ in range(k)
    ]
    scores = 1 / (1 + np.exp(-np.clip(logits, -80, 80)))
    boxes = []
    for i in np.where(scores > floor)[0]:
        x, y = places[i, :2] + np.array(anchors[i]) * side
        w, h = places[i, 2:4]
        boxes.append((x - w / 2, y - h / 2, x + w / 2, y + h / 2, scores[i], 0))
    return kept(boxes, 0.3)


def ssd(rgb, floor):
    scores, places = run("ssdlite_mobilenet_v2_coco_300.onnx", planes(rgb, 2 / 255, -1))
    scores, places = scores[0], places[0, :, 0] * 300
    best, score = scores.argmax(1), scores.max(1)
    boxes = []
    for column in sorted(set(best[score > floor])):
        of_class = [
            (places[i, 1], places[i, 0], places[i, 3], places[i, 2], score[i], COCO_IDS.index(column + 1))
            for i in np.where((best == column) & (score > floor))[0]
        ]
        boxes += kept(of_class, 0.5)
    return boxes


def picture(path, size):
    return cv2.cvtColor(cv2.resize(cv2.imread(path), size, interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2RGB)


def tiny(name, output, values, side=32, brightest=None):
    """A model that answers `values`, whatever it sees; NaN for a picture with a level above `brightest`."""
    tensor = helper.make_tensor("answer", TensorProto.FLOAT, output, np.asarray(values, np.float32).flatten())
    constants = {"zero": 0.0} if brightest is None else {"zero": 0.0, "limit": brightest}
    root = [helper.make_node("Sub", ["limit", "most"], ["left"]), helper.make_node("Sqrt", ["left"], ["root"])]
    nothing = [
        helper.make_node("ReduceMax", ["images"], ["most"], keepdims=0),
        *([] if brightest is None else root),
        helper.make_node("Mul", ["most" if brightest is None else "root", "zero"], ["nothing"]),
        helper.make_node("Add", ["answer", "nothing"], ["output"]),
    ]
    graph = helper.make_graph(
        nothing,
        name,
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, side, side])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, output)],
        [tensor, *(helper.make_tensor(name, TensorProto.FLOAT, [], [value]) for name, value in constants.items())],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    (HERE / f"{name}.onnx").write_bytes(model.SerializeToString(deterministic=True))


def main():
    astronaut, chelsea = sys.argv[1:]
    face = picture(astronaut, (256, 256))
    small = picture(astronaut, (128, 128))
    things = np.concatenate([picture(astronaut, (300, 300))[:, :170], picture(chelsea, (300, 300))[:, 60:190]], 1)
    things = np.ascontiguousarray(things)
    for name, rgb in ("face_256", face), ("face_128", small), ("things_300", things):
        (HERE / f"{name}.rgb").write_bytes(rgb.tobytes())
    floor = 0.2
    found = {
        "centerface": centerface(face, floor),
        "blazeface-front": blaze("blazeface_front_128.onnx", small, floor),
        "blazeface-back": blaze("blazeface_back_256.onnx", face, floor),
        "ssdlite": ssd(things, floor),
    }
    found = {name: sorted(boxes, key=lambda box: -box[4]) for name, boxes in found.items()}
    rows = {name: [[round(float(v), 5) for v in box] for box in boxes] for name, boxes in found.items()}
    (HERE / "reference.json").write_text(json.dumps({"floor": floor, "boxes": rows}, indent=1) + "\n")

    # 21 cells of strides 8, 16 and 32; two classes.
    grid = np.zeros((1, 21, 7), np.float32)
    grid[0, 5] = [0.5, 0.5, np.log(2), np.log(2), 0.9, 0.1, 1.0]
    tiny("yolox", [1, 21, 7], grid)
    grid[0, 20, 0] = np.nan
    tiny("nan", [1, 21, 7], grid)
    tiny("classifier", [1, 10], np.zeros(10))
    # Where the picture is bright it fails.
    tiny("bright", [1, 21, 7], np.zeros((1, 21, 7)), brightest=200.0)


main()
