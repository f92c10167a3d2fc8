"""Names for the types of NumPy arrays. Shapes are given where an array is used."""

import numpy as np
import numpy.typing as npt

BoolArray = npt.NDArray[np.bool_]
UInt8Array = npt.NDArray[np.uint8]
Int8Array = npt.NDArray[np.int8]
Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]
IntArray = npt.NDArray[np.intp]
Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
