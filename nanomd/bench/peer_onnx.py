"""ONNX Runtime: the decode step as a graph written by hand, caches in and out, sampling in the graph.

Any of our models fits: either norm, either activation, learned or rotary positions, grouped queries, markov head.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nanomd.bench.peer import Tokens
from nanomd.model.rope import rope_tables

if TYPE_CHECKING:
    from nanomd.model.files import ModelFiles

_MASKED = -1e30


class OnnxRuntime:
    """A session over the graph; the caches stay in its own arrays from step to step."""

    def __init__(self, files: ModelFiles, mode: str, n_threads: int) -> None:
        import onnxruntime

        self._config, self._ring = files.config, mode == "ring"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = n_threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            decode_graph(files, self._ring), options, providers=["CPUExecutionProvider"]
        )
        self._inputs = {value.name for value in self._session.get_inputs()}
        self._value = onnxruntime.OrtValue.ortvalue_from_numpy
        self._random = np.random.default_rng(0)
        self._caches: dict[str, Any] = {}
        self._last: Any = None
        self._position = 0

    def generate(self, prompts: Tokens, n_new: int, want_logits: bool) -> tuple[Tokens, NDArray[Any] | None]:
        """Sample; see `nanomd.bench.peer.Peer`."""
        config = self._config
        empty = np.zeros((len(prompts), config.kv_heads, 0, config.d_head), np.float32)
        names = [f"{kind}{layer}" for layer in range(config.n_layer) for kind in ("past_key", "past_value")]
        self._caches = {name: self._value(empty) for name in names}
        self._position, self._past = 0, 0
        self._last = self._value(np.ascontiguousarray(prompts))
        return self.advance(n_new, want_logits)

    def advance(self, n_new: int, want_logits: bool = False) -> tuple[Tokens, NDArray[Any] | None]:
        """Go on for `n_new` states from where the last call ended."""
        steps = [self._step(want_logits) for _ in range(n_new)]
        tokens = np.concatenate([token for token, _ in steps], axis=1)
        return tokens, np.stack([logits for _, logits in steps], axis=1) if want_logits else None

    def _step(self, want_logits: bool) -> tuple[Tokens, Any]:
        config = self._config
        n, T = self._last.shape()
        feeds = {"tokens": self._last, "u": self._value(self._random.random((n, 1), np.float32)), **self._caches}
        positions = np.arange(self._position, self._position + T)
        if config.position == "rope":
            cos, sin = rope_tables(config, positions.astype(np.uint64))
            feeds["cos"], feeds["sin"] = self._value(cos), self._value(sin)
        else:
            feeds["positions"] = self._value(positions)
        keys = np.arange(self._position - self._past, self._position + T)
        lag = positions[:, None] - keys[None, :]
        seen = (lag >= 0) & (lag < config.context_length)
        feeds["mask"] = self._value(np.where(seen, 0, _MASKED).astype(np.float32))
        wanted = [name.replace("past", "present") for name in self._caches]
        feeds = {name: value for name, value in feeds.items() if name in self._inputs}
        outputs = self._session.run_with_ort_values(["next", *(["logits"] if want_logits else []), *wanted], feeds)
        self._last = outputs[0]
        self._caches = dict(zip(self._caches, outputs[-len(wanted) :], strict=True))
        self._position += T
        self._past = next(iter(self._caches.values())).shape()[2]
        return self._last.numpy(), outputs[1].numpy() if want_logits else None


class _Graph:
    """Writes nodes in the order of the computation."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._count = 0

    def constant(self, value: Any) -> str:
        from onnx import numpy_helper

        self._count += 1
        name = f"c{self._count}"
        self.constants.append(numpy_helper.from_array(np.array(value, order="C"), name))
        return name

    def __call__(self, op: str, *inputs: str, output: str = "", n: int = 1, **attributes: Any) -> Any:
        from onnx import helper

        self._count += 1
        outputs = [output or f"x{self._count}"] if n == 1 else [f"x{self._count}_{i}" for i in range(n)]
        self.nodes.append(helper.make_node(op, list(inputs), outputs, **attributes))
        return outputs[0] if n == 1 else outputs


def decode_graph(files: ModelFiles, ring: bool) -> bytes:
    """Return the graph: tokens (n, T), u (n, 1), positions or cos and sin, mask, caches -> next (n, 1), logits, ..."""
    from onnx import TensorProto, helper

    config, tensors = files.config, files.tensors
    H, G, dh, d = config.n_head, config.kv_heads, config.d_head, config.d_model
    g = _Graph()
    scale = g.constant(np.float32(dh**-0.5))

    def linear(x: str, name: str) -> str:
        product = g("MatMul", x, g.constant(tensors[f"{name}.weight"].T))
        return str(g("Add", product, g.constant(tensors[f"{name}.bias"])))

    def norm(x: str, name: str) -> str:
        weight, bias = g.constant(tensors[f"{name}.weight"]), g.constant(tensors[f"{name}.bias"])
        return str(g("LayerNormalization", x, weight, bias, axis=-1, epsilon=1e-5))

    def heads(x: str, n: int) -> str:
        return str(g("Transpose", g("Reshape", x, g.constant(np.array([0, 0, n, dh]))), perm=[0, 2, 1, 3]))

    def rotate(x: str) -> str:
        a, b = g("Split", x, axis=-1, num_outputs=2, n=2)
        first = g("Sub", g("Mul", a, "cos"), g("Mul", b, "sin"))
        return str(g("Concat", first, g("Add", g("Mul", b, "cos"), g("Mul", a, "sin")), axis=-1))

    def repeat(x: str) -> str:  # a key/value head for each query head
        if G == H:
            return x
        wide = g("Expand", g("Unsqueeze", x, g.constant(np.array([2]))), g.constant(np.array([1, 1, H // G, 1, 1])))
        return str(g("Reshape", wide, g.constant(np.array([0, H, -1, dh]))))

    def attention(x: str, layer: int) -> str:
        widths = g.constant(np.array([d, G * dh, G * dh]))
        q, k, v = g("Split", linear(x, f"blocks.{layer}.attention.qkv"), widths, axis=-1, n=3)
        q, k, v = heads(q, H), heads(k, G), heads(v, G)
        if config.position == "rope":
            q, k = rotate(q), rotate(k)
        k = g("Concat", f"past_key{layer}", k, axis=2)
        v = g("Concat", f"past_value{layer}", v, axis=2)
        for kind, value in (("key", k), ("value", v)):
            name = f"present_{kind}{layer}"
            if ring:  # what the next step can still see
                first = g.constant(np.array([-(config.context_length - 1)]))
                end, axis = g.constant(np.array([2**31])), g.constant(np.array([2]))
                g("Slice", value, first, end, axis, output=name)
            else:
                g("Identity", value, output=name)
        scores = g("MatMul", g("Mul", q, scale), g("Transpose", repeat(k), perm=[0, 1, 3, 2]))
        weights = g("Softmax", g("Add", scores, "mask"), axis=-1)
        mixed = g("Transpose", g("MatMul", weights, repeat(v)), perm=[0, 2, 1, 3])
        return linear(g("Reshape", mixed, g.constant(np.array([0, 0, d]))), f"blocks.{layer}.attention.proj")

    def mlp(x: str, layer: int) -> str:
        hidden = linear(x, f"blocks.{layer}.mlp.up")
        hidden = g("Gelu", hidden, approximate="tanh") if config.activation == "gelu" else g("Relu", hidden)
        return linear(hidden, f"blocks.{layer}.mlp.down")

    x = g("Gather", g.constant(tensors["embedding.weight"]), "tokens")
    if config.position == "learned":
        x = g("Add", x, g("Gather", g.constant(tensors["position.weight"]), "positions"))
    for layer in range(config.n_layer):
        n1, n2 = f"blocks.{layer}.norm1", f"blocks.{layer}.norm2"
        if config.norm == "pre":
            x = g("Add", x, attention(norm(x, n1), layer))
            x = g("Add", x, mlp(norm(x, n2), layer))
        else:
            x = norm(g("Add", x, attention(x, layer)), n1)
            x = norm(g("Add", x, mlp(x, layer)), n2)
    last = g.constant(np.array(-1))
    x = g("Gather", x, last, axis=1)
    logits = linear(norm(x, "norm") if config.norm == "pre" else x, "head")
    if config.markov_head:
        row = g("Gather", g.constant(tensors["markov.weight"]), g("Gather", "tokens", last, axis=1))
        logits = g("Add", logits, row)
    g("Identity", logits, output="logits")
    # The next state is the number of cumulative probabilities that do not exceed u.
    cumulative = g("CumSum", g("Softmax", logits, axis=-1), g.constant(np.array(1)))
    below = g("Cast", g("LessOrEqual", cumulative, "u"), to=TensorProto.INT64)
    drawn = g("ReduceSum", below, g.constant(np.array([1])), keepdims=1)
    g("Min", drawn, g.constant(np.array(config.n_states - 1)), output="next")

    F, integer = TensorProto.FLOAT, TensorProto.INT64
    value = helper.make_tensor_value_info
    inputs = [value("tokens", integer, ["n", "T"]), value("u", F, ["n", 1]), value("mask", F, ["T", "S"])]
    if config.position == "rope":
        inputs += [value(name, F, ["T", dh // 2]) for name in ("cos", "sin")]
    else:
        inputs.append(value("positions", integer, ["T"]))
    outputs = [value("next", integer, ["n", 1]), value("logits", F, ["n", config.n_states])]
    for layer in range(config.n_layer):
        for kind in ("key", "value"):
            inputs.append(value(f"past_{kind}{layer}", F, ["n", G, "P", dh]))
            outputs.append(value(f"present_{kind}{layer}", F, ["n", G, "P_next", dh]))
    graph = helper.make_graph(g.nodes, "decode", inputs, outputs, g.constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    serialised: bytes = model.SerializeToString()
    return serialised
