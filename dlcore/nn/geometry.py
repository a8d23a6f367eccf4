"""How large a layer's output is, how many parameters it has, and how far its units see.

The sizes are those of one axis: a layer with several treats each by itself. They agree with Flax's
`nn.Conv`, `nn.ConvTranspose`, `nn.ConvLocal` and with `dlcore.nn.pooling`. Source: Dumoulin and
Visin (2016), "A guide to convolution arithmetic for deep learning".
"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from dlcore.errors import UsageError

# "SAME", "VALID", or the zeros before and after the axis; a negative number crops.
Padding = str | tuple[int, int]


class Window(NamedTuple):
    """What a layer's unit sees of the layer below, along one axis.

    Attributes:
      kernel_size: numbers that it sees.
      stride: distance between the windows of adjacent units.
      dilation: distance between two numbers of one window.
    """

    kernel_size: int
    stride: int = 1
    dilation: int = 1

    def extent(self) -> int:
        """From the window's first number to its last: dilation (kernel_size - 1) + 1.

        Raises:
          UsageError: a number of the window is below 1.
        """
        for name, value in self._asdict().items():
            if value < 1:
                raise UsageError(f"a window's {name} is at least 1, not {value}")
        return self.dilation * (self.kernel_size - 1) + 1


def output_size(size: int, window: Window, padding: Padding) -> int:
    """Units of a convolution or pooling over an axis; 0 where the window does not fit.

    floor((size + padding - extent) / stride) + 1, the formula of the lectures (L) where the padding
    is p on both sides. "VALID" pads nothing, "SAME" as much as gives ceil(size / stride).

    Raises:
      UsageError: the window or the padding is invalid.
    """
    extent = window.extent()
    if padding == "SAME":
        return -(-size // window.stride)
    low, high = _explicit(padding)
    return max(0, (size + low + high - extent) // window.stride + 1)


def transposed_output_size(size: int, window: Window, padding: Padding) -> int:
    """Units of a transposed convolution over an axis: `nn.ConvTranspose`, its stride 1 / stride.

    The zeros that Flax takes as padding lie around the input after its numbers were spread `stride`
    apart: (size - 1) stride + 1 + padding - extent + 1. "SAME" gives size stride, "VALID" the size
    where every product counts, and stride size at least.

    Raises:
      UsageError: the window or the padding is invalid.
    """
    extent = window.extent()
    if padding == "SAME":
        return size * window.stride
    if padding == "VALID":
        return size * window.stride + max(extent - window.stride, 0)
    low, high = _explicit(padding)
    return max(0, (size - 1) * window.stride + 1 + low + high - extent + 1)


def transposed_padding(
    window: Window, padding: tuple[int, int], remainder: int = 0
) -> tuple[int, int]:
    """The padding with which `nn.ConvTranspose` transposes a convolution padded by `padding`.

    The output then has (size - 1) stride + extent - padding + remainder numbers, as the layers have
    that take the convolution's padding instead (PyTorch's, where the remainder is named
    `output_padding`).

    Args:
      window: the convolution's, and the transposed one's.
      padding: the convolution's.
      remainder: numbers at the convolution's input's end that its last window did not reach: inputs
        of several sizes have one output size.
    """
    low, high = padding
    return window.extent() - 1 - low, window.extent() - 1 - high + remainder


def parameter_count(
    kernel_size: Sequence[int],
    inputs: int,
    outputs: int,
    groups: int = 1,
    positions: int = 1,
    use_bias: bool = True,
) -> int:
    """Parameters of a convolution in any number of dimensions: (f f inputs / groups + 1) outputs.

    Deck L prints (h w inputs + 1) outputs with the image's height and width: a slip, for the kernel
    is shared by all positions. A transposed convolution has as many.

    Args:
      kernel_size: f, an axis each.
      inputs: channels of the input.
      outputs: channels of the output.
      groups: groups of channels that see one another.
      positions: sets of weights: 1 where all positions of the output share them, else the number of
        positions (a locally connected layer).
      use_bias: whether the 1 is there.

    Raises:
      UsageError: the channels do not divide into that many groups.
    """
    if groups < 1 or inputs % groups or outputs % groups:
        raise UsageError(f"{inputs} and {outputs} channels do not divide into {groups} groups")
    return positions * (math.prod(kernel_size) * inputs // groups + use_bias) * outputs


def receptive_field(layers: Iterable[Window]) -> Window:
    """The window of one unit on top of a stack of layers: how much of the input it sees.

    size = 1 + sum over layers of (extent - 1) times the strides of all layers below; adjacent
    units see windows that lie the product of all strides apart (Araujo, Norris and Sim, 2019,
    eq. 2). Deck K compares one 7x7 convolution with two of 3x3, which see 5x5: it takes three.

    Raises:
      UsageError: a window has a number below 1.
    """
    size, stride = 1, 1
    for layer in layers:
        size += (layer.extent() - 1) * stride
        stride *= layer.stride
    return Window(size, stride)


def _explicit(padding: Padding) -> tuple[int, int]:
    if padding == "VALID":
        return 0, 0
    if isinstance(padding, str):
        raise UsageError(f"padding is SAME, VALID or two numbers, not {padding!r}")
    return padding
