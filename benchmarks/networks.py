"""ONNX models built in memory with seeded random weights: ResNet-50, MobileNet-v2, single operators.

The speed of dense float32 code does not depend on the values, so random weights time like trained ones.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
IR_VERSION = 8


class NetBuilder:
    """Collects nodes and weights of one ONNX graph.

    Args:
        seed: of the generator of all weights.
    """

    def __init__(self, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def weight(self, name: str, array: np.ndarray) -> str:
        """Add an initializer; returns its name."""
        self.weights.append(numpy_helper.from_array(np.asarray(array, np.float32, order="C"), name))
        return name

    def node(self, op_type: str, inputs: Sequence[str], output: str, **attributes: object) -> str:
        """Add a node with one output; returns the output's name."""
        self.nodes.append(helper.make_node(op_type, list(inputs), [output], name=output, **attributes))
        return output

    def he(self, *shape: int) -> np.ndarray:
        """He-normal weights: the fan-in is the product of all dimensions but the first."""
        scale = np.sqrt(2.0 / np.prod(shape[1:]))
        return self.random.standard_normal(shape, dtype=np.float32) * np.float32(scale)

    def conv(
        self, x: str, name: str, cin: int, cout: int, kernel: int, stride: int = 1, group: int = 1
    ) -> str:
        """A convolution without bias, padded to keep the size at stride 1."""
        weight = self.weight(f"{name}.weight", self.he(cout, cin // group, kernel, kernel))
        pad = (kernel - 1) // 2
        return self.node(
            "Conv",
            [x, weight],
            name,
            kernel_shape=[kernel] * 2,
            strides=[stride] * 2,
            pads=[pad] * 4,
            group=group,
        )

    def batch_norm(self, x: str, name: str, channels: int) -> str:
        """Inference-mode batch normalization with random statistics near (0, 1)."""
        near_one = self.random.uniform(0.5, 1.5, (2, channels))
        near_zero = self.random.normal(0, 0.1, (2, channels))
        arrays = {"gamma": near_one[0], "beta": near_zero[0], "mean": near_zero[1], "var": near_one[1]}
        names = [self.weight(f"{name}.{key}", array) for key, array in arrays.items()]
        return self.node("BatchNormalization", [x, *names], name, epsilon=1e-5)

    def model(
        self,
        name: str,
        inputs: dict[str, Sequence[int | str]],
        outputs: Sequence[str],
        dtype: int = TensorProto.FLOAT,
    ) -> onnx.ModelProto:
        """The finished model; its inputs are of ``dtype``, its outputs float32."""
        graph = helper.make_graph(
            self.nodes,
            name,
            [helper.make_tensor_value_info(key, dtype, shape) for key, shape in inputs.items()],
            [helper.make_tensor_value_info(key, TensorProto.FLOAT, None) for key in outputs],
            self.weights,
        )
        opset = helper.make_opsetid("", OPSET)
        return onnx.shape_inference.infer_shapes(
            helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION, producer_name="tilewright")
        )


def resnet50(seed: int = 0) -> onnx.ModelProto:
    """ResNet-50 v1.5 (He et al. 2015, stride in the 3×3 convolutions): x[N,3,224,224] → logits[N,1000].

    As an exporter leaves it in inference mode: Conv, BatchNormalization and Relu are nodes of their own.
    25.6 M parameters, 4.1 G multiply-adds.
    """
    net = NetBuilder(seed)

    def conv_bn(x: str, name: str, cin: int, cout: int, kernel: int, stride: int = 1) -> str:
        return net.batch_norm(net.conv(x, name, cin, cout, kernel, stride), f"{name}.bn", cout)

    x = net.node("Relu", [conv_bn("x", "stem", 3, 64, 7, 2)], "stem.relu")
    x = net.node("MaxPool", [x], "pool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    channels = 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        width = 64 << stage
        for block in range(blocks):
            name = f"layer{stage + 1}.{block}"
            stride = 2 if stage and not block else 1
            y = net.node("Relu", [conv_bn(x, f"{name}.conv1", channels, width, 1)], f"{name}.relu1")
            y = net.node("Relu", [conv_bn(y, f"{name}.conv2", width, width, 3, stride)], f"{name}.relu2")
            y = conv_bn(y, f"{name}.conv3", width, 4 * width, 1)
            if not block:
                x = conv_bn(x, f"{name}.downsample", channels, 4 * width, 1, stride)
            x = net.node("Relu", [net.node("Add", [y, x], f"{name}.add")], f"{name}.relu3")
            channels = 4 * width
    x = net.node("Flatten", [net.node("GlobalAveragePool", [x], "mean")], "flat", axis=1)
    weight = net.weight("fc.weight", net.he(1000, channels))
    bias = net.weight("fc.bias", np.zeros(1000))
    logits = net.node("Gemm", [x, weight, bias], "logits", transB=1)
    return net.model("resnet50", {"x": ["N", 3, 224, 224]}, [logits])


def mobilenet_v2(seed: int = 0) -> onnx.ModelProto:
    """MobileNet-v2 (Sandler et al. 2018): x[N,3,224,224] → logits[N,1000].

    As an exporter leaves it in inference mode: Conv, BatchNormalization and Clip are nodes of their own.
    3.5 M parameters, 0.3 G multiply-adds.
    """
    net = NetBuilder(seed)
    bounds = [net.weight("zero", np.zeros(())), net.weight("six", np.full((), 6))]

    def conv_bn(
        x: str, name: str, cin: int, cout: int, kernel: int, stride: int = 1, group: int = 1
    ) -> str:
        return net.batch_norm(net.conv(x, name, cin, cout, kernel, stride, group), f"{name}.bn", cout)

    def relu6(x: str) -> str:
        return net.node("Clip", [x, *bounds], f"{x}.relu6")

    x = relu6(conv_bn("x", "stem", 3, 32, 3, 2))
    channels = 32
    stages = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2))
    for stage, (expansion, width, blocks, first) in enumerate((*stages, (6, 320, 1, 1))):
        for block in range(blocks):
            name, stride, hidden = f"stage{stage}.{block}", first if not block else 1, channels * expansion
            y = x if expansion == 1 else relu6(conv_bn(x, f"{name}.expand", channels, hidden, 1))
            y = relu6(conv_bn(y, f"{name}.depthwise", hidden, hidden, 3, stride, hidden))
            y = conv_bn(y, f"{name}.project", hidden, width, 1)
            x = net.node("Add", [x, y], f"{name}.add") if stride == 1 and channels == width else y
            channels = width
    x = relu6(conv_bn(x, "last", channels, 1280, 1))
    x = net.node("Flatten", [net.node("GlobalAveragePool", [x], "mean")], "flat", axis=1)
    weight = net.weight("fc.weight", net.he(1000, 1280))
    bias = net.weight("fc.bias", np.zeros(1000))
    logits = net.node("Gemm", [x, weight, bias], "logits", transB=1)
    return net.model("mobilenet_v2", {"x": ["N", 3, 224, 224]}, [logits])


@dataclasses.dataclass(frozen=True)
class Gemm:
    """``x[M,K] @ w[K,N]`` with constant ``w``."""

    m: int
    n: int
    k: int

    @property
    def name(self) -> str:
        """As printed."""
        return f"gemm {self.m}x{self.n}x{self.k}"

    @property
    def flops(self) -> int:
        """Two for each multiply-add."""
        return 2 * self.m * self.n * self.k

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the input x."""
        return (self.m, self.k)

    def model(self, seed: int = 0) -> onnx.ModelProto:
        """A model of one MatMul node."""
        net = NetBuilder(seed)
        y = net.node("MatMul", ["x", net.weight("w", net.he(self.n, self.k).T)], "y")
        return net.model("gemm", {"x": self.shape}, [y])


@dataclasses.dataclass(frozen=True)
class Conv:
    """A square convolution of ``x[1,cin,size,size]`` with constant weights, padded by (kernel - 1) // 2.

    Attributes:
        count: how often ResNet-50 has it.
    """

    cin: int
    cout: int
    size: int
    kernel: int
    stride: int
    count: int = 1

    @property
    def name(self) -> str:
        """As printed."""
        return f"conv {self.cin}->{self.cout} {self.size}px k{self.kernel} s{self.stride}"

    @property
    def flops(self) -> int:
        """Two for each multiply-add; those with the padding count too, although nobody has to do them."""
        out = (self.size - 1) // self.stride + 1
        return 2 * self.cin * self.cout * self.kernel**2 * out**2

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the input x."""
        return (1, self.cin, self.size, self.size)

    def model(self, seed: int = 0) -> onnx.ModelProto:
        """A model of one Conv node."""
        net = NetBuilder(seed)
        y = net.conv("x", "y", self.cin, self.cout, self.kernel, self.stride)
        return net.model("conv", {"x": self.shape}, [y])


GEMMS = (Gemm(512, 512, 512), Gemm(1024, 1024, 1024), Gemm(128, 768, 768), Gemm(49, 2048, 512))

RESNET50_CONVS = (
    Conv(3, 64, 224, 7, 2, 1),
    Conv(64, 64, 56, 1, 1, 1),
    Conv(64, 64, 56, 3, 1, 3),
    Conv(64, 256, 56, 1, 1, 4),
    Conv(256, 64, 56, 1, 1, 2),
    Conv(256, 128, 56, 1, 1, 1),
    Conv(128, 128, 56, 3, 2, 1),
    Conv(128, 512, 28, 1, 1, 4),
    Conv(256, 512, 56, 1, 2, 1),
    Conv(512, 128, 28, 1, 1, 3),
    Conv(128, 128, 28, 3, 1, 3),
    Conv(512, 256, 28, 1, 1, 1),
    Conv(256, 256, 28, 3, 2, 1),
    Conv(256, 1024, 14, 1, 1, 6),
    Conv(512, 1024, 28, 1, 2, 1),
    Conv(1024, 256, 14, 1, 1, 5),
    Conv(256, 256, 14, 3, 1, 5),
    Conv(1024, 512, 14, 1, 1, 1),
    Conv(512, 512, 14, 3, 2, 1),
    Conv(512, 2048, 7, 1, 1, 3),
    Conv(1024, 2048, 14, 1, 2, 1),
    Conv(2048, 512, 7, 1, 1, 2),
    Conv(512, 512, 7, 3, 1, 2),
)


@dataclasses.dataclass(frozen=True)
class Depthwise:
    """A square 3x3 convolution of ``x[1,channels,size,size]`` over each channel by itself, padded by 1."""

    channels: int
    size: int
    stride: int

    @property
    def name(self) -> str:
        """As printed."""
        return f"depthwise {self.channels} {self.size}px s{self.stride}"

    @property
    def flops(self) -> int:
        """Two for each multiply-add, those with the padding too."""
        out = (self.size - 1) // self.stride + 1
        return 2 * self.channels * 9 * out**2

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the input x."""
        return (1, self.channels, self.size, self.size)

    def model(self, seed: int = 0) -> onnx.ModelProto:
        """A model of one Conv node."""
        net = NetBuilder(seed)
        weight = net.weight("w", net.he(self.channels, 1, 3, 3))
        strides = [self.stride] * 2
        y = net.node(
            "Conv",
            ["x", weight],
            "y",
            kernel_shape=[3, 3],
            strides=strides,
            pads=[1] * 4,
            group=self.channels,
        )
        return net.model("depthwise", {"x": self.shape}, [y])


#: The distinct depthwise convolutions of MobileNet-v2 at 224 pixels.
MOBILENET_DEPTHWISE = (
    Depthwise(32, 112, 1),
    Depthwise(96, 112, 2),
    Depthwise(144, 56, 1),
    Depthwise(144, 56, 2),
    Depthwise(192, 28, 1),
    Depthwise(192, 28, 2),
    Depthwise(384, 14, 1),
    Depthwise(576, 14, 1),
    Depthwise(576, 14, 2),
    Depthwise(960, 7, 1),
)
