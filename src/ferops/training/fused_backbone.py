"""The backbone as it trains fastest: padding, convolution, batch norm and ReLU6 as one layer.

    >>> fast = with_fused_backbone(model)  # doctest: +SKIP

Batch norms and activations are passes over memory, which on a CPU take as long as the convolutions do
(docs/training.md has the timings). A block saves most of them. Its layers are those of the model it was made
of, so what one learns the other has; it is for training alone and is never saved.
"""

from typing import Any

import keras
from keras import layers, ops


class FusedBlock(layers.Layer):
    """`pad`, `convolution`, `norm` and ReLU6, `[N, H, W, C]` to `[N, H', W', C']`.

    A frozen batch norm is a scale and an offset: they are put into the kernel and the bias of the
    convolution, which TensorFlow computes together with ReLU6 in one pass. One that trains is TensorFlow's
    `FusedBatchNormV3`; Keras' own makes a pass each for mean, variance and output. That kernel's moving
    variance takes the unbiased estimate (n - 1), the one difference.

    Args:
        pad: before the convolution; none without.
        convolution: has neither bias nor activation.
        norm: over its channels, the last axis.
    """

    def __init__(
        self,
        pad: layers.ZeroPadding2D | None,
        convolution: layers.Conv2D | layers.DepthwiseConv2D,
        norm: layers.BatchNormalization,
    ) -> None:
        super().__init__(name=f"{convolution.name}_block", dtype=convolution.dtype_policy)
        self.pad, self.convolution, self.norm = pad, convolution, norm
        self.built = True

    def compute_output_shape(self, shape: Any) -> Any:
        """Shape of `call`'s answer."""
        return self.convolution.compute_output_shape(
            self.pad.compute_output_shape(shape) if self.pad else shape
        )

    def call(self, x: Any, training: bool | None = None) -> Any:
        """Compute float32 or bfloat16 images; statistics and the scale are kept in float32."""
        if training and self.norm.trainable:
            return ops.relu6(self._normalised(self._convolved(x, self.convolution.kernel)))
        scale = self.norm.gamma * ops.rsqrt(self.norm.moving_variance + self.norm.epsilon)
        bias = self.norm.beta - self.norm.moving_mean * scale
        over_outputs = scale[:, None] if self._is_depthwise else scale
        x = self._convolved(x, ops.cast(self.convolution.kernel, "float32") * over_outputs)
        return ops.relu6(_with_bias(x, ops.cast(bias, x.dtype)))

    @property
    def _is_depthwise(self) -> bool:
        return isinstance(self.convolution, layers.DepthwiseConv2D)

    def _convolved(self, x: Any, kernel: Any) -> Any:
        padding = self.convolution.padding
        if self.pad is not None and all(side is not None and side % 2 == 0 for side in x.shape[1:3]):
            padding = "same"  # at stride 2 this adds what `pad` does: a row below, a column to the right
        elif self.pad is not None:
            x = self.pad(x)
        convolve = ops.depthwise_conv if self._is_depthwise else ops.conv
        return convolve(x, ops.cast(kernel, x.dtype), strides=self.convolution.strides, padding=padding)

    def _normalised(self, x: Any) -> Any:
        """By the statistics of the batch, which the moving ones follow."""
        if keras.backend.backend() != "tensorflow":
            return self.norm(x, training=True)  # XLA fuses it
        import tensorflow as tf

        output, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=x,
            scale=tf.cast(self.norm.gamma, tf.float32),
            offset=tf.cast(self.norm.beta, tf.float32),
            mean=tf.zeros([0]),
            variance=tf.zeros([0]),
            epsilon=self.norm.epsilon,
        )
        momentum = self.norm.momentum
        for moving, now in ((self.norm.moving_mean, mean), (self.norm.moving_variance, variance)):
            moving.assign(moving * momentum + now * (1 - momentum))
        return output


def with_fused_backbone(model: keras.Model) -> keras.Model:
    """The same layers and weights, in the same order, with the backbone's in blocks.

    What freezes layers or sets their momentum is for `model`, before or after: it does not look into blocks.

    Args:
        model: from `build_patt_lite`.
    """
    base = model.get_layer("base_model")
    inputs = x = keras.Input(base.input_shape[1:])
    pad = convolution = None
    for layer in base.layers:
        if isinstance(layer, layers.ZeroPadding2D):
            pad = layer
        elif isinstance(layer, (layers.Conv2D, layers.DepthwiseConv2D)):
            convolution = layer
        elif isinstance(layer, layers.BatchNormalization):
            x, pad = FusedBlock(pad, convolution, layer)(x), None
    fused = keras.Model(inputs, x, name=base.name)
    return keras.models.clone_model(
        model, clone_function=lambda layer: fused if layer.name == base.name else layer
    )


def _with_bias(x: Any, bias: Any) -> Any:
    if keras.backend.backend() != "tensorflow":
        return x + bias
    import tensorflow as tf

    return tf.nn.bias_add(x, bias)  # not an addition: this one it computes together with the convolution
