"""Which errors mean that memory is full, and which that the device is lost to this process."""

import numpy as np
import pytest
import torch

from autoreap.models.faults import is_device_lost, is_out_of_memory

NO_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    torch.AcceleratorError("CUDA error: out of memory"),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("cudaErrorMemoryAllocation"),
    RuntimeError("CUDA driver error: out of memory"),
]
LOST = [
    torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
    torch.AcceleratorError("CUDA error: device-side assert triggered"),
    RuntimeError("CUDA error: unspecified launch failure"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
]
OTHERS = [
    RuntimeError("The size of tensor a (3) must match the size of tensor b (4) at non-singleton dimension 1"),
    ValueError("out of memory"),
    KeyError("CUDA error"),
]


@pytest.mark.parametrize("error", NO_MEMORY, ids=str)
def test_memory_that_is_full_is_known_in_all_words(error: Exception) -> None:
    assert is_out_of_memory(error)
    assert not is_device_lost(error)


@pytest.mark.parametrize("error", LOST, ids=str)
def test_a_device_that_is_lost_is_known(error: Exception) -> None:
    assert is_device_lost(error)
    assert not is_out_of_memory(error)


@pytest.mark.parametrize("error", OTHERS, ids=str)
def test_a_fault_of_the_program_is_neither(error: Exception) -> None:
    assert not is_out_of_memory(error)
    assert not is_device_lost(error)


def test_the_cpus_own_refusals_are_full_memory() -> None:
    with pytest.raises(RuntimeError) as of_torch:
        torch.empty(2**50)
    with pytest.raises(MemoryError) as of_numpy:
        np.empty(2**58)
    assert is_out_of_memory(of_torch.value)
    assert is_out_of_memory(of_numpy.value)
