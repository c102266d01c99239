"""An artifact as a model of NVIDIA's Triton Inference Server."""
