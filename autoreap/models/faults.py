"""What the errors of a device mean: too little memory, or a device that this process can use no more.

torch raises the same cause as different classes with different words: its own allocator, cuBLAS and cuDNN (which
allocate for themselves), the driver, and the allocator of the CPU.
"""

_NO_MEMORY = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "cannot allocate memory",
    "cudaErrorMemoryAllocation",
    "ALLOC_FAILED",  # CUBLAS_STATUS_, CUDNN_STATUS_, CUSPARSE_STATUS_, CUSOLVER_STATUS_
    "ALLOCATION_FAILED",  # CUDNN_STATUS_INTERNAL_ERROR_HOST_ and _DEVICE_
    "CUBLAS_STATUS_NOT_INITIALIZED",  # its handle needs memory, too
)
_LOST = (
    "CUDA error",
    "HIP error",
    "device-side assert",
    "illegal memory access",
    "unspecified launch failure",
    "CUBLAS_STATUS_EXECUTION_FAILED",
    "CUBLAS_STATUS_INTERNAL_ERROR",
    "CUDNN_STATUS_EXECUTION_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says, in whatever words, that memory is full: of an accelerator or of the machine."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and _names(error, _NO_MEMORY)


def is_device_lost(error: BaseException) -> bool:
    """Whether the device fails from now on at whatever this process asks of it; only a new process helps.

    So it is after an illegal memory access or a failed assertion in a kernel.
    """
    import torch

    if is_out_of_memory(error):
        return False
    if isinstance(error, torch.AcceleratorError):
        return True
    return isinstance(error, RuntimeError) and _names(error, _LOST)


def _names(error: BaseException, signs: tuple[str, ...]) -> bool:
    text = str(error).lower()
    return any(sign.lower() in text for sign in signs)
