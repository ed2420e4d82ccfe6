"""The Linen layer that an NNX layer stands for, where there is one."""
