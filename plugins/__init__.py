"""TensorRT plugins, the kernel of the GPU runner, and how Python finds and loads them."""
