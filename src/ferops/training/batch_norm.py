"""Batch norms as one kernel each: on TensorFlow's CPU, training them costs half of what Keras' own take.

    >>> fast = with_fused_batch_norms(model)  # doctest: +SKIP

Keras 3 computes mean, variance and output in separate passes over memory (docs/training.md has the timings).
The fused model is for training alone: its weights, in the same order, are those of the plain one.
"""

from typing import Any

import keras


class FusedBatchNormalization(keras.layers.BatchNormalization):
    """Keras' batch norm over `[N, H, W, C]` by TensorFlow's `FusedBatchNormV3`.

    The one difference: the moving variance takes the unbiased estimate (n - 1), as that kernel gives it.
    """

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Normalise float32 or bfloat16 images; statistics are kept in float32."""
        if not (training and self.trainable):
            return super().call(inputs, training=training, mask=mask)
        import tensorflow as tf

        output, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=tf.cast(self.gamma, tf.float32),
            offset=tf.cast(self.beta, tf.float32),
            mean=tf.zeros([0]),
            variance=tf.zeros([0]),
            epsilon=self.epsilon,
        )
        for moving, now in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + now * (1 - self.momentum))
        return output


def with_fused_batch_norms(model: keras.Model) -> keras.Model:
    """The same model and weights with its backbone's batch norms fused; itself where XLA fuses (JAX).

    Args:
        model: from `build_patt_lite`.
    """
    if keras.backend.backend() != "tensorflow":
        return model

    def fuse(layer: keras.layers.Layer) -> keras.layers.Layer:
        kind = type(layer)
        if kind is keras.layers.BatchNormalization and len(layer.input.shape) == 4:
            kind = FusedBatchNormalization
        return kind.from_config(layer.get_config())

    fused = keras.models.clone_model(model, clone_function=fuse, recursive=True)
    fused.set_weights(model.get_weights())
    return fused
