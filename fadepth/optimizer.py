"""AdamW as torch has it, without the wrappers that call the compiler."""

from inspect import unwrap

import torch
from torch.optim import Optimizer


class AdamW(torch.optim.AdamW):
    """`torch.optim.AdamW`, bit for bit, in a program that compiles nothing.

    Torch wraps these methods so that `torch.compile` may meet them. The first call of each imports
    the compiler and sympy (`torch._compile._disable_dynamo` and `_use_grad_for_differentiable` in
    `torch.optim.optimizer`, 2.13): a second of CPU time in every process, nearly as long as torch
    itself takes to start.
    """

    add_param_group = unwrap(Optimizer.add_param_group)
    zero_grad = unwrap(Optimizer.zero_grad)
    state_dict = unwrap(Optimizer.state_dict)
    load_state_dict = unwrap(Optimizer.load_state_dict)
    step = torch.no_grad()(unwrap(torch.optim.AdamW.step))
