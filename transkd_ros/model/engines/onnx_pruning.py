"""Taking outputs out of an ONNX graph, for ONNX Runtime, which runs every node of a file, whatever outputs are fetched.

Needs protobuf alone, which ONNX Runtime brings along: the few fields of ONNX's messages that are touched are described
here, by their numbers in onnx.proto, and protobuf carries the others along unread.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_Field = descriptor_pb2.FieldDescriptorProto
_MESSAGES = {  # message: {field: (number, type)}; all but `graph` and `name` are lists
    "ModelProto": {"graph": (7, "GraphProto")},
    "GraphProto": {"node": (1, "NodeProto"), "output": (12, "ValueInfoProto")},
    "NodeProto": {"input": (1, ""), "output": (2, "")},
    "ValueInfoProto": {"name": (1, "")},
}
_SINGLE = ("graph", "name")


def pruned(model: bytes, outputs: Collection[str]) -> bytes:
    """The ONNX `model` with these outputs only, and the nodes that they need.

    For graphs without subgraphs (If, Loop). Raises google.protobuf.message.DecodeError for what is no ONNX.
    """
    parsed = _model_class().FromString(model)
    graph, needed = parsed.graph, set(outputs)
    kept = [output for output in graph.output if output.name in needed]
    nodes = []
    for node in reversed(graph.node):  # ONNX has them sorted: what a node needs stands before it
        if needed.intersection(node.output):
            needed.update(node.input)
            nodes.append(node)
    _replace(graph.output, kept)
    _replace(graph.node, nodes[::-1])
    return bytes(parsed.SerializeToString())


def _replace(field: Any, values: list[Any]) -> None:
    del field[:]
    field.extend(values)


@cache
def _model_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="transkd_ros/onnx_pruning.proto", syntax="proto2")
    for message, fields in _MESSAGES.items():
        added = file.message_type.add(name=message)
        for name, (number, kind) in fields.items():
            added.field.add(
                name=name,
                number=number,
                type=_Field.TYPE_MESSAGE if kind else _Field.TYPE_STRING,
                type_name=f".{kind}" if kind else None,
                label=_Field.LABEL_OPTIONAL if name in _SINGLE else _Field.LABEL_REPEATED,
            )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("ModelProto"))
