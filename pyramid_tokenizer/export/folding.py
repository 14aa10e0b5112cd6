"""Constants of a recorded graph, computed once before it is written."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram


@torch.no_grad()
def fold_constants(program: ExportedProgram) -> fx.GraphModule:
    """The program's graph as a module, with everything that depends on weights alone computed now, by torch.

    So positions of a ViT are resampled before the export and not by the resampling of another runtime, whose bicubic kernel may
    differ, and whitening is folded into the adapters.

    Args:
        program: As `torch.export.export` makes it; a size that is fixed in it is a constant too.

    Returns:
        A module that takes what the program takes and holds the tensors that it still reads.
    """
    module = program.run_decompositions({}).module(check_guards=False)  # functional: nothing is changed in place
    values: dict[fx.Node, Any] = {}
    for node in module.graph.nodes:
        if node.op == "get_attr":
            values[node] = _attribute(module, node.target)
        elif node.op == "call_function" and node.users and all(source in values for source in node.all_input_nodes):
            args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
            values[node] = node.target(*args, **kwargs)
    _replace_read(module, values)
    module.graph.eliminate_dead_code()
    return fx.GraphModule(module, module.graph)  # of the module's tensors it takes those that the graph reads


def _replace_read(module: fx.GraphModule, values: dict[fx.Node, Any]) -> None:
    """Puts a stored constant in place of each known node that an unknown one reads."""
    for number, (node, value) in enumerate(values.items()):
        if not isinstance(value, Tensor) or all(user in values for user in node.users):
            continue
        name = f"constant_{number}"
        module.register_buffer(name, value.detach().contiguous())
        with module.graph.inserting_before(node):
            constant = module.graph.get_attr(name)
        constant.meta = dict(node.meta)
        node.replace_all_uses_with(constant)


def _attribute(module: torch.nn.Module, target: str) -> Any:
    value: Any = module
    for name in target.split("."):
        value = getattr(value, name)
    return value
