"""Random networks for property tests: a pool of tensors grows by one drawn step after another.

A step is a function `(grower, tensor) -> tensor, or several`. Steps stand in one file per kind of
tensor, in `everywhere` for tensors of any rank, and in `singles` for what these draw too seldom.
"""

from __future__ import annotations

from grammar.drawing import draw_model

__all__ = ["LISTED", "draw_model"]

LISTED = frozenset(
    """
    Conv1D Conv2D Conv3D Conv1DTranspose Conv2DTranspose Conv3DTranspose
    DepthwiseConv1D DepthwiseConv2D SeparableConv1D SeparableConv2D Dense EinsumDense
    BatchNormalization LayerNormalization GroupNormalization UnitNormalization RMSNormalization
    PReLU Normalization Rescaling LayerScale
    MaxPooling1D MaxPooling2D MaxPooling3D AveragePooling1D AveragePooling2D AveragePooling3D
    GlobalMaxPooling1D GlobalMaxPooling2D GlobalMaxPooling3D
    GlobalAveragePooling1D GlobalAveragePooling2D GlobalAveragePooling3D
    AdaptiveMaxPooling2D AdaptiveAveragePooling2D
    UpSampling1D UpSampling2D UpSampling3D Resizing CenterCrop
    Cropping1D Cropping2D Cropping3D ZeroPadding1D ZeroPadding2D ZeroPadding3D
    Reshape Permute Flatten RepeatVector
    Add Subtract Multiply Average Maximum Minimum Dot Concatenate
    SimpleRNN LSTM GRU Bidirectional TimeDistributed ConvLSTM1D ConvLSTM2D
    MultiHeadAttention GroupedQueryAttention Attention Embedding Lambda
    Dropout SpatialDropout1D SpatialDropout2D GaussianNoise GaussianDropout AlphaDropout
    Split GetItem Stack Mean Transpose Swapaxes Pad Take Flip Cumsum Where Softmax
    """.split()
)
"""Types of layers and operations that are drawn."""
