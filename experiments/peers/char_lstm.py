"""The twin of `dlcore.models.char_lstm` under truncated back-propagation through time."""

import torch
from torch import nn
from torch.nn import functional

from experiments.peers.peer import Batch, Peer, register


class CharLSTM(Peer):
    """One-hot characters, LSTM layers, logits; the state goes on from batch to batch."""

    task = "language_model"
    output: torch.Tensor
    cell: torch.Tensor

    def __init__(
        self,
        batch: Batch,
        vocabulary_size: int = 65,
        hidden: int = 128,
        layers: int = 2,
        dropout_rate: float = 0.0,
    ):
        super().__init__()
        self.vocabulary_size = vocabulary_size
        # Dropout follows each layer; PyTorch's own leaves the last one out.
        self.lstm = nn.LSTM(vocabulary_size, hidden, layers, batch_first=True, dropout=dropout_rate)
        self.dropout = nn.Dropout(dropout_rate)
        self.logits = nn.Linear(hidden, vocabulary_size)
        # A layer of ours has one bias, PyTorch's has two that add up.
        for name, parameter in self.lstm.named_parameters():
            if name.startswith("bias_hh"):
                nn.init.zeros_(parameter).requires_grad_(False)
        for name in ("output", "cell"):
            self.register_buffer(name, torch.zeros(layers, len(batch["tokens"]), hidden))

    def loss(self, batch: Batch) -> torch.Tensor:
        """The mean cross-entropy of the next characters."""
        goes_on = ~batch["start"][:, None]
        x = functional.one_hot(batch["tokens"], self.vocabulary_size).float()
        x, (output, cell) = self.lstm(x, (self.output * goes_on, self.cell * goes_on))
        self.output, self.cell = output.detach(), cell.detach()
        logits = self.logits(self.dropout(x))
        return functional.cross_entropy(logits.flatten(0, 1), batch["targets"].flatten())


register("char_lstm", CharLSTM)
