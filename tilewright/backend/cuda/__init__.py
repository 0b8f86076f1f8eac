"""NVIDIA GPUs. So far: how their tensor intrinsics are done, for the code generator to come."""
