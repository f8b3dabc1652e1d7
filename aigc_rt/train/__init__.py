"""The training core: generators, data, the loop, checkpoints, quality. PyTorch lives here and in aigc_rt.export."""
