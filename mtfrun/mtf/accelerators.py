"""The start of GPUs and TPUs for DTensor, and settings of TensorFlow for them."""

from __future__ import annotations

import dataclasses
import os
from typing import ClassVar

import tensorflow as tf
from tensorflow.experimental import dtensor

from mtfrun.errors import LayoutError

# DTensor's collectives between GPUs use NVIDIA's library if this is "1", else the host's memory.
NCCL = "DTENSOR_GPU_USE_NCCL_COMMUNICATION"


@dataclasses.dataclass(frozen=True)
class DeviceSettings:
    """How TensorFlow uses the devices of this process; those of the last mesh hold.

    CPUs ignore all but `deterministic`.

    Attributes:
      tensor_float_32: whether a GPU may round the factors of float32 products to 10 bits (TF32),
        which is faster. Without it, numbers on GPUs and CPUs agree as those of two meshes do.
        TensorFlow's own default is true. Products of bfloat16 are not affected.
      deterministic: whether operations that are faster in a varying order of summation are run in
        a fixed one, so that a resumed run repeats every bit. It cannot be switched off again.
      memory_growth: whether GPU memory is taken as it is needed, so that several programs share a
        GPU, instead of almost all of it at once.
    """

    tensor_float_32: bool = False
    deterministic: bool = False
    memory_growth: bool = False

    def apply(self) -> None:
        """Sets up TensorFlow.

        Raises:
          LayoutError: `memory_growth` differs from what TensorFlow has already started with.
        """
        tf.config.experimental.enable_tensor_float_32_execution(self.tensor_float_32)
        if self.deterministic:
            tf.config.experimental.enable_op_determinism()
        for gpu in tf.config.list_physical_devices("GPU"):
            if bool(tf.config.experimental.get_memory_growth(gpu)) != self.memory_growth:
                try:
                    tf.config.experimental.set_memory_growth(gpu, self.memory_growth)
                except (RuntimeError, ValueError) as error:
                    raise LayoutError(
                        f"DeviceSettings.memory_growth={self.memory_growth}: TensorFlow has "
                        "started with another value: make the mesh before any tensor"
                    ) from error


class _Started:
    """The kind of accelerators that DTensor was started for in this process."""

    kind: ClassVar[str | None] = None


def use_nccl() -> None:
    """Lets DTensor's collectives between GPUs use NCCL, unless the user's environment decides.

    Called before DTensor is started.
    """
    os.environ.setdefault(NCCL, "1")


def start_accelerators(kind: str, description: str) -> None:
    """Starts DTensor for the GPUs or TPUs of this process, before TensorFlow makes a tensor.

    DTensor then makes as many logical CPUs as there are accelerators: it saves and restores the
    variables of each through one of them.

    Args:
      kind: "GPU" or "TPU".
      description: of the mesh, for messages.

    Raises:
      LayoutError: TensorFlow has already started.
    """
    if _Started.kind == kind:
        return
    if kind == "GPU":
        use_nccl()
    try:
        dtensor.initialize_accelerator_system(kind)
    except (ValueError, RuntimeError) as error:
        raise LayoutError(
            f"mesh {description} cannot use {kind}s ({error}): make the mesh before any tensor"
        ) from error
    _Started.kind = kind
