"""What a configuration will take, known before anything is started: sizes, memory, arithmetic, hours, cost.

Everything is reckoned on PyTorch's meta device, where tensors have shapes and no content: no GPU, no weights.
"""
