"""The engines and precisions that there are, by name; light, so that a command can offer them before it imports one."""

ENGINES = ("torch", "onnxruntime", "openvino")
PRECISIONS = ("auto", "fp32", "bf16", "fp16", "int8")
