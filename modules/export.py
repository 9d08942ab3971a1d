"""Export: one modality of an Embedder as an ONNX file, that file in int8, and what runs either without torch."""

import math
import shutil
import tempfile
import warnings
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from modules.embedder import Embedder, embed

OPSET: Final = 20
OUTPUT: Final = "vectors"


def require_export() -> None:
    """Check that what exporting needs is installed.

    Raises:
        ValueError: names what is missing and the extra that brings it.
    """
    missing = [name for name in ("onnx", "onnxruntime", "onnxscript") if find_spec(name) is None]
    if missing:
        raise ValueError(f"{', '.join(missing)} not installed; run: pip install 'trivium[export]'")


class _OneModality(nn.Module):
    """An encoder with its projection as a function of plain tensors, which is what ONNX knows."""

    def __init__(self, embedder: Embedder, modality: str, names: list[str]) -> None:
        super().__init__()
        self.encoder, self.projection = embedder.encoders[modality], embedder.projections[modality]
        self.names = names

    def forward(self, *tensors: Tensor) -> Tensor:
        return embed(self.encoder, self.projection, dict(zip(self.names, tensors, strict=True)))


def export_onnx(embedder: Embedder, modality: str, example: Mapping[str, Tensor], path: Path) -> None:
    """Write a modality as ONNX: its Inputs by name to `vectors` (rows, dim), float32 of unit length.

    Rows stay open in the file, and so do lengths (tokens, samples of sound): the sizes of Inputs of two or three
    dimensions that the encoder does not ask to be just so, as it does of a number of channels, and that are not one
    in the example. Pictures (rows, 3, height, width) keep their size.

    Args:
        embedder: on the CPU, in evaluation mode.
        modality: one of the embedder's.
        example: Inputs of at least two rows; torch takes a size of one for a constant.
        path: of the file to write.

    Raises:
        ValueError: when `example` has fewer than two rows.
    """
    import onnx

    rows = len(next(iter(example.values())))
    if rows < 2:
        raise ValueError(
            f"the example of {modality} has {rows} rows: expected at least 2, take a larger batch"
        )
    dim = torch.export.Dim
    open_sizes = tuple(
        {0: dim.DYNAMIC} | {further: dim.AUTO for further in range(1, tensor.ndim) if tensor.ndim <= 3}
        for tensor in example.values()
    )
    with warnings.catch_warnings(), torch.no_grad():
        warnings.filterwarnings("ignore", message="While compiling")  # transformers has a context variable
        traced = torch.export.export(
            _OneModality(embedder, modality, list(example)).eval(),
            tuple(example.values()),
            dynamic_shapes=(open_sizes,),
            strict=True,  # the other way takes the number of rows for a constant wherever len() is asked
        )
    program = torch.onnx.export(
        traced,
        input_names=list(example),
        output_names=[OUTPUT],
        opset_version=OPSET,
        custom_translation_table={torch.ops.aten.stft.default: _stft_by_convolution},
        dynamo=True,
        verbose=False,
    )
    for node in program.model.graph:  # stack traces: a quarter of the file, and paths of this machine
        node.metadata_props.clear()
    # The exporter has folded constants and inferred shapes, which is what the quantizer would have us do.
    program.model.metadata_props["onnx.quant.pre_process"] = "onnxruntime.quant"
    program.save(path)
    model = onnx.load(path)
    del model.graph.value_info[:]  # onnxruntime 1.23 transposes weights, then stumbles over these shapes
    onnx.save(model, path)


def _stft_by_convolution(
    signal: Any,
    n_fft: int,
    hop_length: int,
    win_length: int | None = None,
    window: Any = None,
    normalized: bool = False,
    onesided: bool | None = None,
    return_complex: bool | None = None,
    align_to_window: bool | None = None,
) -> Any:
    """Translate torch.stft to a convolution with the windowed Fourier basis, in float32.

    ONNX has an STFT of its own: onnxruntime 1.32 takes 7 times as long for it, and is 1e-5 off where this is 1e-7.
    It has no convolution in float64, which LogMel's transform is in: what is quiet beside what is loud loses digits.
    """
    import numpy as np
    from onnx import TensorProto
    from onnx.numpy_helper import from_array
    from onnxscript import opset20 as op

    assert win_length in (None, n_fft) and not normalized, "a transform that LogMel does not ask for"
    angles = 2 * np.pi / n_fft * np.outer(np.arange(n_fft // 2 + 1), np.arange(n_fft))
    basis = np.concatenate([np.cos(angles), -np.sin(angles)]).astype(np.float32)[:, None]
    signal, window = (op.Cast(each, to=TensorProto.FLOAT) for each in (signal, window))
    kernels = op.Mul(op.Constant(value=from_array(basis)), window)  # (2 x frequencies, 1, n_fft)
    parts = op.Conv(op.Unsqueeze(signal, [1]), kernels, strides=[hop_length])
    real, imaginary = op.Split(parts, axis=1, num_outputs=2)  # each (rows, frequencies, frames)
    return op.Concat(op.Unsqueeze(real, [3]), op.Unsqueeze(imaginary, [3]), axis=3)


MAX_DRIFT: Final = 1.5e-4
"""How far quantised convolutions may turn the vectors of the calibration set: one minus the cosine, in the mean."""


def quantize_int8(
    source: Path, target: Path, calibration: Iterable[Mapping[str, Tensor]], max_drift: float = MAX_DRIFT
) -> None:
    """Write an ONNX file with int8 weights, one scale a channel, and what they are multiplied with in int8 as well.

    Matrix multiplications take the range of their input as it comes; convolutions, for which that costs more than
    it saves, take it from the calibration. Norms, attention scores and the spectrogram stay float32, and so do the
    convolutions that would turn the vectors most for the bytes they save, once `max_drift` is used up. Weights use
    7 of the 8 bits: on a CPU without VNNI, the sum of two full products overflows (onnxruntime's `reduce_range`).

    Args:
        source: a file that `export_onnx` wrote.
        target: of the file to write.
        calibration: Inputs such as the file will be given; not those that it is measured on.
        max_drift: one minus the cosine between a vector before and after, in the mean over the calibration.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    graph = onnx.load(source).graph
    weights = {weight.name: weight.dims for weight in graph.initializer}
    products = [
        n.name
        for n in graph.node
        if n.op_type in ("MatMul", "Gemm") and len(weights.get(n.input[1], ())) == 2
    ]
    # A parameter keeps its name in the file; the Fourier basis, which is computed, has none.
    sizes = {
        n.name: math.prod(weights[n.input[1]])
        for n in graph.node
        if n.op_type == "Conv" and n.input[1].startswith("encoder.")
    }
    calibration = list(calibration)
    convolutions = _tolerable(source, sizes, calibration, max_drift)

    shutil.copyfile(source, target)
    if products:  # an empty list means all nodes to onnxruntime
        options = {"weight_type": QuantType.QInt8, "per_channel": True, "reduce_range": True}
        quantize_dynamic(target, target, nodes_to_quantize=products, **options)
    if convolutions:
        _quantize_convolutions(target, target, convolutions, calibration)


def _tolerable(
    source: Path, sizes: Mapping[str, int], calibration: list[Mapping[str, Tensor]], max_drift: float
) -> list[str]:
    """Return the convolutions to quantise: those of least drift for their size, while the sum is within bounds."""
    exact = OnnxModel(source)
    vectors = [exact(inputs) for inputs in calibration]
    drifts = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in sizes:
            _quantize_convolutions(source, Path(folder, "one.onnx"), [name], calibration)
            quantised = OnnxModel(Path(folder, "one.onnx"))
            cosines = [(quantised(i) * v).sum(1) for i, v in zip(calibration, vectors, strict=True)]
            drifts[name] = max(0.0, 1 - torch.cat(cosines).mean().item())
    chosen, total = [], 0.0
    for name in sorted(sizes, key=lambda name: drifts[name] / sizes[name]):
        if total + drifts[name] <= max_drift:  # a smaller one behind one that is too much may still fit
            total += drifts[name]
            chosen.append(name)
    return chosen


def _quantize_convolutions(
    source: Path, target: Path, names: list[str], calibration: list[Mapping[str, Tensor]]
) -> None:
    from onnxruntime.quantization import QuantType, quantize_static

    quantize_static(
        source,
        target,
        _CalibrationReader(calibration),
        nodes_to_quantize=names,
        per_channel=True,
        reduce_range=True,
        weight_type=QuantType.QInt8,
        activation_type=QuantType.QUInt8,  # the kernels for signed ones take twice as long
    )


class _CalibrationReader:
    """Inputs in the form in which onnxruntime asks for them, one by one, then None."""

    def __init__(self, calibration: Iterable[Mapping[str, Tensor]]) -> None:
        self.rest = iter(calibration)

    def get_next(self) -> dict[str, Any] | None:
        inputs = next(self.rest, None)
        return None if inputs is None else {name: tensor.numpy() for name, tensor in inputs.items()}


class OnnxModel:
    """An exported file, run by onnxruntime on the CPU with as many threads as torch has.

    Args:
        path: of a file that `export_onnx` or `quantize_int8` wrote.
    """

    def __init__(self, path: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return unit vectors (rows, dim) of Inputs."""
        [vectors] = self.session.run([OUTPUT], {name: tensor.numpy() for name, tensor in inputs.items()})
        return torch.from_numpy(vectors)
