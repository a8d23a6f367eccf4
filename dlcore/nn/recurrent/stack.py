"""Layers of recurrent cells on top of each other, in one direction or both, with dropout."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dlcore.errors import UsageError
from dlcore.nn.recurrent.cells import Carry, Cell
from dlcore.nn.regularization import Dropout
from dlcore.ranges import Positive, Rate


class Stack(nn.Module):
    """Layers of a cell on top of each other: what one gives at a step, the next one gets.

    In both directions, a layer has a second cell of its own that reads each row from its last step
    to its first, and hands up the outputs of the two side by side (Schuster and Paliwal, 1997).

    Dropout is on what every layer hands up, the top one too. It leaves alone what a step hands to
    the next, and drops anew at every step (Zaremba, Sutskever and Vinyals, 2014). `variational`
    dropout has one mask of a row for all its steps, and another one for each cell's h before its
    products (Gal and Ghahramani, 2016, eq. 7). Either paper drops the bottom layer's inputs, too:
    that is for the network to do (`Dropout`, with `steps_alike` where it is Gal's).

    Parameters are those of the cells "layer0", "layer1", ...; and "layer0_reverse", ... .

    Attributes:
      cell: the kind of cell, which every layer has.
      layers: number of layers.
      bidirectional: whether layers read in both directions.
      dropout_rate: probability with which training drops a number.
      variational: whether dropout is Gal's, and not Zaremba's.
    """

    cell: Cell
    layers: Positive = 1
    bidirectional: bool = False
    dropout_rate: Rate = 0.0
    variational: bool = False

    @nn.nowrap
    def initial_carry(self, batch: int) -> tuple[Carry, ...]:
        """The carry of `batch` rows before their first step, zero.

        That of each layer is its cell's or, in both directions, those of its two cells.
        """
        zero = self.cell.initial_carry
        return tuple(
            (zero(batch), zero(batch)) if self.bidirectional else zero(batch)
            for _ in range(self.layers)
        )

    @nn.compact
    def __call__(
        self,
        inputs: Float[Array, "batch time features"],
        carry: tuple[Carry, ...] | None = None,
        lengths: Int[Array, " batch"] | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "batch time outputs"], tuple[Carry, ...]]:
        """The top layer's outputs, and the carry of every layer after each row's last step.

        Past a row's end outputs are zero, whatever the inputs there are, NaN included; an empty row
        keeps the carry that it came with.

        Args:
          inputs: x at every step.
          carry: before the first step, as `initial_carry` gives it; zero by default.
          lengths: steps of each row, from 0 to `time`; all by default.
          train: whether dropout is on.

        Raises:
          UsageError: the carry is that of another number of layers, the lengths are those of
            another number of rows, a rate is out of range, or there is no such dtype.
        """
        batch = inputs.shape[0]
        if lengths is not None and lengths.shape != (batch,):
            raise UsageError(f"{batch} rows have a length each, not lengths {lengths.shape}")
        if carry is None:
            carry = self.initial_carry(batch)
        if len(carry) != self.layers:
            raise UsageError(f"{self.layers} layers have a carry each, not {len(carry)} together")
        last = []
        for layer, before in enumerate(carry):
            inputs, after = self._layer(f"layer{layer}", inputs, before, lengths, train)
            inputs = Dropout(self.dropout_rate, steps_alike=self.variational)(inputs, train)
            last.append(after)
        return inputs, tuple(last)

    def _layer(
        self, name: str, inputs: Array, carry: Carry, lengths: Array | None, train: bool
    ) -> tuple[Array, Carry]:
        if not self.bidirectional:
            return self._direction(name, inputs, carry, lengths, False, train)
        sides = [
            self._direction(name + suffix, inputs, own, lengths, bool(suffix), train)
            for suffix, own in zip(("", "_reverse"), carry, strict=True)
        ]
        outputs, carries = zip(*sides, strict=True)
        return jnp.concatenate(outputs, axis=-1), carries

    def _direction(
        self,
        name: str,
        inputs: Array,
        carry: Carry,
        lengths: Array | None,
        reverse: bool,
        train: bool,
    ) -> tuple[Array, Carry]:
        cell = self.cell.clone(parent=self, name=name)
        mask = None
        if train and self.variational and self.dropout_rate:
            # Of ones, inverted dropout makes what it multiplies with.
            ones = jnp.ones((inputs.shape[0], self.cell.hidden), jnp.float32)
            mask = Dropout(self.dropout_rate, name=f"{name}_mask")(ones, train)
        return cell.scan(inputs, carry, lengths, reverse=reverse, mask=mask)
