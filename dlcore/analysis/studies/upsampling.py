"""Three ways to get spatial resolution back (deck P, after Noh, Hong and Han, 2015)."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dlcore import plots
from dlcore.analysis import study
from dlcore.analysis.photograph import photograph
from dlcore.errors import UsageError
from dlcore.expectation import Expectation
from dlcore.nn.convolution import UpsampledConv
from dlcore.nn.pooling import max_pool_with_indices, unpool
from dlcore.ranges import Positive

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CAPTIONS = {
    "from_unpooled": "unpooling",
    "from_upsampled": "upsampling",
    "from_transposed": "transposed",
}
# A layer without bias: small images and a kernel [f, f, 1, 1] to images twice as large.
_Layer = Callable[[jax.Array, jax.Array], Any]


@dataclasses.dataclass(frozen=True)
class Upsampling(study.Study):
    """A photograph is pooled by 2x2 maxima, then restored by the layer whose kernel fits it best.

    The layers are unpooling by indices and a convolution, upsampling and a convolution, and a
    transposed convolution of stride 2. Each is linear in its kernel, so that least squares finds
    the best one. For the latter two the checkerboard is measured, too, that a kernel of ones leaves
    on a flat image: the standard deviation of what should be even, over its mean.

    Attributes:
      size: pixels of the photograph's height and width, an even number.
      kernel_size: height and width of every kernel.
    """

    size: Positive = 160
    kernel_size: Positive = 5

    # A 5x5 kernel of stride 2 writes 4, 6, 6 or 9 times to a position: mean 25/4, variance 51/16.
    expectations = (
        *study.near("transposed_checkerboard", math.sqrt(51) / 25, 1e-4, "Odena et al. (2016)"),
        Expectation("upsampled_checkerboard", 0, "min", "Odena et al. (2016)"),
        Expectation("from_upsampled_psnr", 20, "max", "dlcore, in decibels"),
        Expectation("from_transposed_psnr", 20, "max", "dlcore, in decibels"),
        Expectation("from_unpooled_psnr", 16, "max", "dlcore, in decibels"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size % 2 or self.size < 4 * self.kernel_size:
            raise UsageError(
                f"size={self.size}: it must be even, and at least 4 kernel_size = "
                f"{4 * self.kernel_size}"
            )

    def run(self) -> study.Numbers:
        """The restored photographs, how near they come (in decibels), and the checkerboards."""
        image = photograph(self.size)
        pooled, indices, unpooled = _pooled_and_unpooled(image[None, :, :, None])
        numbers: study.Numbers = {
            "photograph": image,
            "pooled": np.asarray(pooled[0, :, :, 0]),
            "unpooled": np.asarray(unpooled[0, :, :, 0]),
        }
        kernels = (self.kernel_size, self.kernel_size)
        convolution = nn.Conv(1, kernels, use_bias=False)
        upsampled = UpsampledConv(1, kernels)
        transposed = nn.ConvTranspose(1, kernels, (2, 2), use_bias=False)
        no_bias = jnp.zeros(1)
        layers: dict[str, _Layer] = {
            "from_unpooled": lambda x, kernel: convolution.apply(
                {"params": {"kernel": kernel}}, unpool(x, indices, image.shape)
            ),
            "from_upsampled": lambda x, kernel: upsampled.apply(
                {"params": {"conv": {"kernel": kernel, "bias": no_bias}}}, x
            ),
            "from_transposed": lambda x, kernel: transposed.apply(
                {"params": {"kernel": kernel}}, x
            ),
        }
        for name, layer in layers.items():
            restored = self._best(layer, pooled, image)
            numbers[name] = restored
            numbers[f"{name}_psnr"] = -10 * np.log10(np.square(restored - image).mean())
        for name in ("upsampled", "transposed"):
            numbers[f"{name}_checkerboard"] = self._checkerboard(layers[f"from_{name}"], pooled)
        return numbers

    def draw(self, numbers: Mapping[str, np.ndarray]) -> "Figure":
        """What goes in, and the three ways back."""
        restored = [name for name in numbers if name.startswith("from_") and numbers[name].ndim]
        names = ["photograph", "pooled", "unpooled", *restored]
        shown = {name: np.asarray(numbers[name]) for name in names}
        shown["pooled"] = shown["pooled"].repeat(2, 0).repeat(2, 1)
        captions = [
            f"{_CAPTIONS[name]}, {numbers[f'{name}_psnr']:.1f} dB" if name in restored else name
            for name in names
        ]
        return plots.image_grid(np.stack(list(shown.values())), captions, columns=3)

    def _best(self, layer: _Layer, small: jax.Array, image: np.ndarray) -> np.ndarray:
        """The layer's output, with the kernel of the least squared error."""
        taps = self.kernel_size**2
        single = np.eye(taps, dtype=np.float32)
        single = single.reshape(taps, self.kernel_size, self.kernel_size, 1, 1)
        outputs = jax.jit(jax.vmap(layer, (None, 0)))(small, single)
        columns = np.asarray(outputs, np.float64).reshape(taps, -1).T
        kernel = np.linalg.lstsq(columns, image.ravel())[0]
        return (columns @ kernel).reshape(image.shape)

    def _checkerboard(self, layer: _Layer, small: jax.Array) -> float:
        ones = np.ones((self.kernel_size, self.kernel_size, 1, 1), np.float32)
        inside = slice(self.kernel_size, -self.kernel_size)
        flat = np.ones(small.shape, np.float32)
        even = np.asarray(jax.jit(layer)(flat, ones))[0, inside, inside]
        return float(even.std() / even.mean())


@jax.jit
def _pooled_and_unpooled(image: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Maxima over 2x2 pixels, their positions, and each maximum put back at its position."""
    pooled, indices = max_pool_with_indices(image)
    return pooled, indices, unpool(pooled, indices, image.shape[1:3])


study.register("upsampling", Upsampling)
