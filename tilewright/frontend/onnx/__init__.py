"""The ONNX importer: ``read_model(source)`` for a model's signature and graphs, ``import_onnx`` for a graph
at once.
"""

from tilewright.frontend.onnx.model import OnnxModel, Signature, import_onnx, read_model
from tilewright.frontend.onnx.registry import MAX_OPSET, MIN_OPSET, supported_ops

__all__ = ["MAX_OPSET", "MIN_OPSET", "OnnxModel", "Signature", "import_onnx", "read_model", "supported_ops"]
