"""What `python -m kernels.bench` measures of the training block.

The two primitives, each for itself, since "auto" chooses for each; and the whole block, whose peers
are the plain chain that XLA differentiates and fuses, and PyTorch's, as it is and compiled.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp

from kernels import dispatch, timing
from kernels.conv_bn_relu import cases, xla
from kernels.conv_bn_relu import dispatch as block_dispatch
from kernels.conv_bn_relu.operation import conv_bn_relu
from kernels.conv_bn_relu.primitives import conv_stats, normalize
from kernels.conv_bn_relu.types import Normalization, Statistics

SHAPES = "resnet50:128,resnet50:256"
DTYPES: tuple[str, ...] = ("bfloat16",)
CALLS = 64
CASES: ModuleType = cases

# What is differentiated, and what comes with it.
Layer = Callable[..., tuple[Any, Any]]

_TORCH = """
batch, height, width, inputs, outputs, size, stride, residual, activation, dtype = words
from torch.nn import functional
torch.backends.cudnn.benchmark = True

def images(*shape):
    array = torch.randn(*shape, device=device, dtype=getattr(torch, dtype))
    return array.to(memory_format=torch.channels_last).requires_grad_()

def block(x, kernel, scale, bias, residual):
    with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
        y = functional.conv2d(x, kernel, stride=stride, padding=size // 2)
        y = functional.batch_norm(y, None, None, scale, bias, training=True)
        y = y if residual is None else y + residual
        return y.relu() if activation == "relu" else y

kernel = torch.randn(outputs, inputs, size, size, device=device) / (size * inputs**0.5)
kernel = kernel.to(memory_format=torch.channels_last).requires_grad_()
vectors = [torch.randn(outputs, device=device, requires_grad=True) for _ in range(2)]
after = (batch, outputs, *((side - 1) // stride + 1 for side in (height, width)))
drawn = [
    (images(batch, inputs, height, width), kernel, *vectors, images(*after) if residual else None)
    for _ in range(4)
]
cotangent = images(*after).detach()

def measured(layer):
    def forward(arguments):
        with torch.no_grad():
            layer(*arguments)

    def both(arguments):
        wanted = [array for array in arguments if array is not None]
        torch.autograd.grad(layer(*arguments), wanted, cotangent)

    return [seconds(forward, drawn), seconds(both, drawn)]

layers = {"torch": block, "torch_compiled": torch.compile(block, fullgraph=True)}
print(json.dumps({name: measured(layer) for name, layer in layers.items()}))
"""


def parse(word: str, dtype: str) -> list[cases.Case]:
    """See `bench.Family`.

    "resnet50:128" is that network at that batch. "8x14x14x64x256x1x2+residual+pending" is batch,
    height, width, channels of input and output, kernel size, stride, and what else is true.
    """
    try:
        if word.startswith("resnet50:"):
            return list(
                cases.resnet50(timing.positive_integer(word.removeprefix("resnet50:")), dtype)
            )
        sizes, *flags = word.split("+")
        batch, height, width, inputs, outputs, kernel_size, stride = map(
            timing.positive_integer, sizes.split("x")
        )
        if not {"residual", "pending"}.issuperset(flags):
            raise ValueError
    except ValueError:
        raise ValueError(
            f"{word!r}: resnet50:BATCH, or batch, height, width, inputs, outputs, kernel size and "
            "stride, each at least 1, as in 8x14x14x64x256x1x2+residual+pending"
        ) from None
    case = cases.Case(batch, height, width, inputs, outputs, kernel_size, stride, dtype)
    return [dataclasses.replace(case, residual="residual" in flags, pending="pending" in flags)]


def proofs(case: cases.Case) -> list[cases.Case]:
    """See `bench.Family`: few images, whose positions are a multiple of 128 as in full."""
    positions = math.prod(case.geometry.space)
    batch = min(case.batch, 128 // math.gcd(128, positions))
    pending = (False, True) if case.pending else (False,)
    return [dataclasses.replace(case, batch=batch, pending=flag) for flag in pending]


def right(case: cases.Case, arguments: cases.Arguments) -> dict[str, Any]:
    """See `bench.Family`; what is bfloat16 is compared with float32, which the device computes."""
    if case.dtype == "float32":
        return cases.right(case, arguments)
    wide = jax.tree.map(lambda array: array.astype(jnp.float32), arguments)
    return cases.call(case, wide, "reference")


def serving(case: cases.Case) -> list[str]:
    """See `bench.Family`: whose passes serve; a convolution may be XLA's all the same."""
    return _serving(dict.fromkeys(block_dispatch.conv_refusals(case.geometry, case.dtype)))


def _serving(refusals: Mapping[str, str | None]) -> list[str]:
    return [name for name, word in dispatch.explain(refusals).items() if word == "serves"]


def subjects(case: cases.Case) -> list[timing.Subject]:
    """See `bench.Family`: both primitives, the first also with what is pending, and the block."""
    convolutions = [_convolution(case, pending=False)]
    if case.pending:
        convolutions.append(_convolution(case, pending=True))
    return [*convolutions, _normalization(case), _block(case)]


def _convolution(case: cases.Case, pending: bool) -> timing.Subject:
    geometry = case.geometry
    options: dict[str, Any] = {"strides": case.stride, "padding": case.padding}

    def layer(name: str, before: str) -> Layer:
        def convolve(x: Any, kernel: Any, normalization: Any) -> tuple[Any, Any]:
            if normalization is not None and name == "xla":
                x, normalization = normalize(x, normalization, implementation=before), None
            return conv_stats(x, kernel, normalization, implementation=name, **options)

        return convolve

    passes, convolutions = (
        serving(case),
        _serving(block_dispatch.conv_refusals(geometry, case.dtype)),
    )
    # Where XLA convolves, "auto" lets the fastest implementation normalize first.
    ways = {
        name: [layer(name, before) for before in (passes if pending and name == "xla" else [name])]
        for name in convolutions
    }
    table = block_dispatch.conv_table(geometry, pending)
    arrays = _arrays(case)
    return timing.Subject(
        operation=table.operation,
        shape=table.sizes,
        dtype=case.dtype,
        draw=_drawer(
            (arrays["x"], arrays["kernel"], _normalization_of(case.inputs) if pending else None),
            arrays["raw"],
        ),
        implementations={name: list(map(_directions, several)) for name, several in ways.items()},
        peers={},
        counts=conv_counts(case, pending),
    )


def _normalization(case: cases.Case) -> timing.Subject:
    def layer(name: str) -> Layer:
        def forward(raw: Any, normalization: Any, residual: Any) -> tuple[Any, None]:
            return normalize(raw, normalization, residual, implementation=name), None

        return forward

    raw = _arrays(case)["raw"]
    table = block_dispatch.normalize_table(case.geometry.rows, case.outputs, case.residual)
    return timing.Subject(
        operation=table.operation,
        shape=table.sizes,
        dtype=case.dtype,
        draw=_drawer((raw, _normalization_of(case.outputs), raw if case.residual else None), raw),
        implementations={name: [_directions(layer(name))] for name in serving(case)},
        peers={},
        counts=normalize_counts(case),
        copied=lambda arguments: arguments[1],
    )


def _block(case: cases.Case) -> timing.Subject:
    options: dict[str, Any] = {"strides": case.stride, "padding": case.padding}

    def layer(name: str) -> Layer:
        def block(x: Any, kernel: Any, scale: Any, bias: Any, residual: Any) -> tuple[Any, Any]:
            return conv_bn_relu(
                x,
                kernel,
                scale,
                bias,
                residual=residual,
                activation=case.activation,
                implementation=name,
                **options,
            )

        return block

    arrays = _arrays(case)
    sizes = ("batch", "height", "width", "inputs", "outputs", "kernel_size", "stride", "residual")
    words = [getattr(case, name) for name in sizes]
    vectors = [_vector(case.outputs)] * 2
    residual = arrays["raw"] if case.residual else None
    return timing.Subject(
        operation="conv_bn_relu",
        shape=dict(zip(sizes, map(int, words), strict=True)),
        dtype=case.dtype,
        draw=_drawer((arrays["x"], arrays["kernel"], *vectors, residual), arrays["raw"]),
        implementations={name: [_directions(layer(name))] for name in serving(case)},
        peers={"chain": _directions(functools.partial(chain, case))},
        counts=block_counts(case),
        script=timing.Script(_TORCH, (*words, case.activation, case.dtype)),
    )


def chain(
    case: cases.Case, x: Any, kernel: Any, scale: Any, bias: Any, residual: Any
) -> tuple[Any, Statistics]:
    """The block in plain jnp, differentiated by JAX."""
    raw = xla.convolve(x, kernel.astype(x.dtype), case.geometry)
    wide = raw.astype(jnp.float32)
    mean = wide.mean((0, 1, 2))
    variance = jnp.square(wide - mean).mean((0, 1, 2))
    y = (wide - mean) * jax.lax.rsqrt(variance + 1e-5) * scale + bias
    if residual is not None:
        y += residual.astype(jnp.float32)
    if case.activation == "relu":
        y = jax.nn.relu(y)
    return y.astype(x.dtype), Statistics(mean, variance)


def conv_counts(case: cases.Case, pending: bool) -> tuple[timing.Counts, timing.Counts]:
    """The counts of `conv_stats`: forward, and forward and backward, without vectors of channels.

    Forward the input and the kernel are read and the result is written. Backward there are two
    products; they read the result's cotangent twice, the input and the kernel, and write the
    cotangents of these. What is pending costs nothing forward; backward it is applied again, which
    reads and writes the input, and is itself gone back through, as `normalize_counts` has it.
    """
    geometry = case.geometry
    size = jnp.dtype(case.dtype).itemsize
    outputs = geometry.rows * case.outputs
    whole = case.batch * case.height * case.width * case.inputs
    # A 1x1 kernel with a stride skips positions.
    inputs = geometry.rows * case.inputs if geometry.is_matrix_product else whole
    kernel = math.prod(geometry.kernel_size) * case.inputs * case.outputs
    operations = 2 * geometry.rows * kernel
    forward = inputs + kernel + outputs
    backward = inputs + whole + 2 * kernel + 2 * outputs + (7 * whole if pending else 0)
    return (
        timing.Counts(operations, size * forward),
        timing.Counts(3 * operations, size * (forward + backward)),
    )


def normalize_counts(case: cases.Case) -> tuple[timing.Counts, timing.Counts]:
    """The counts of `normalize`: forward, and forward and backward, without vectors of channels.

    Forward one array is read and one written; backward the first pass reads the array and the
    cotangent, and the second one these again, and writes. A residual is read; backward the first
    pass then also reads the outputs, and writes the residual's cotangent.
    """
    array = jnp.dtype(case.dtype).itemsize * case.geometry.rows * case.outputs
    forward, backward = (3, 7) if case.residual else (2, 5)
    return timing.Counts(0, forward * array), timing.Counts(0, (forward + backward) * array)


def block_counts(case: cases.Case) -> tuple[timing.Counts, timing.Counts]:
    """The counts of the whole block: the sums of both halves, with nothing pending."""
    forward, both = zip(conv_counts(case, pending=False), normalize_counts(case), strict=True)
    return _sum(forward), _sum(both)


def _sum(counts: Iterable[timing.Counts]) -> timing.Counts:
    operations, moved = map(sum, zip(*counts, strict=True))
    return timing.Counts(operations, moved)


def _directions(layer: Layer) -> timing.Directions:
    """A layer in both directions.

    It takes the layer's operands and the cotangent of its first result.
    """

    def both(arguments: Any) -> Any:
        operands, cotangent = arguments
        y, pull_back, rest = jax.vjp(layer, *operands, has_aux=True)
        return y, rest, pull_back(cotangent)

    return timing.Directions(lambda arguments: layer(*arguments[0]), both)


def _arrays(case: cases.Case) -> dict[str, jax.ShapeDtypeStruct]:
    """The large ones: the input, the kernel, and what the convolution leaves."""
    x = (case.batch, case.height, case.width, case.inputs)
    raw = (case.batch, *case.geometry.space, case.outputs)
    return {
        "x": jax.ShapeDtypeStruct(x, case.dtype),
        "kernel": jax.ShapeDtypeStruct(
            (*case.geometry.kernel_size, case.inputs, case.outputs), "float32"
        ),
        "raw": jax.ShapeDtypeStruct(raw, case.dtype),
    }


def _vector(channels: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((channels,), "float32")


def _normalization_of(channels: int) -> Normalization:
    vector = _vector(channels)
    return Normalization(vector, vector, vector, vector)


def _drawer(operands: Any, cotangent: Any) -> Callable[[int], Any]:
    """Draws on the device, vectors around one: they may be variances."""
    leaves, structure = jax.tree.flatten((operands, cotangent))

    def draw(array: jax.ShapeDtypeStruct, key: jax.Array) -> jax.Array:
        if len(array.shape) == 1:
            return jax.random.uniform(key, array.shape, array.dtype, 0.5, 1.5)
        return jax.random.normal(key, array.shape, array.dtype)

    def draw_all(seed: int) -> Any:
        keys = jax.random.split(jax.random.key(seed, impl="rbg"), len(leaves))
        return jax.tree.unflatten(structure, list(map(draw, leaves, keys)))

    return draw_all
