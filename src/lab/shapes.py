"""Shapes of the tensors that modules exchange. Tests check them at every call."""

from jaxtyping import Float, Int, UInt8
from torch import Tensor

Images = UInt8[Tensor, "batch channel height width"]
Inputs = Images | Float[Tensor, "batch input"]  # what a data set holds
Labels = Int[Tensor, " batch"]
BatchLabels = Int[Tensor, " whole"]  # of a whole batch, where inputs may be a slice of it
# Of a whole batch of mixed inputs, columns: the label with the larger share, the other label, the
# share, 0.5..1. One tensor, so that a CUDA graph has it at one address.
Mixed = Float[Tensor, "whole 3"]
Targets = BatchLabels | Mixed
Features = Float[Tensor, "batch feature"]
Logits = Float[Tensor, "batch class"]
Loss = Float[Tensor, ""]
