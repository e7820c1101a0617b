"""The peers' rows: torchvision's networks with other people's quantizers, each a training step to be called."""

import torch
import torchvision
from torch import fx, nn
from torch.nn import functional as F

from peerslib.quantizers import Fixed, Lsq, PcaGroups

CLASSES = 1000


def behind_activations(network, make):
    """`network` with a module of `make()` behind each call of an activation function: modules that are called twice have two."""
    traced = fx.symbolic_trace(network)
    for node in list(traced.graph.nodes):
        if _is_activation(traced, node):
            name = f"site_{len([n for n in traced.graph.nodes if str(n.target).startswith('site_')])}"
            traced.add_submodule(name, make())
            with traced.graph.inserting_after(node):
                site = traced.graph.call_module(name)
            node.replace_all_uses_with(site)
            site.args = (node,)
    traced.recompile()
    return traced


def in_place_of_activations(network, make):
    """`network` with a module of `make()` in place of each call of an activation function."""
    traced = fx.symbolic_trace(network)
    for number, node in enumerate(list(traced.graph.nodes)):
        if _is_activation(traced, node):
            name = f"site_{number}"
            traced.add_submodule(name, make())
            node.target = name
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced


def _is_activation(traced, node):
    return node.op == "call_module" and isinstance(traced.get_submodule(node.target), (nn.ReLU, nn.ReLU6))


def _brevitas():
    from brevitas.nn import QuantReLU

    # After the first batch the scale is a learned parameter.
    return QuantReLU(bit_width=4, return_quant_tensor=False, collect_stats_steps=1)


# Name of a row: what is made of the network, and whether its memory is channels last.
ROWS = {
    "pytorch-float": (lambda network: network, False),
    "pytorch-float-channels-last": (lambda network: network, True),
    "fake-quantize": (lambda network: behind_activations(network, Fixed), False),
    "lsq": (lambda network: behind_activations(network, Lsq), False),
    "brevitas": (lambda network: in_place_of_activations(network, _brevitas), False),
    "pca-groups": (lambda network: behind_activations(network, PcaGroups), False),
}


class Row:
    """A network that trains on one batch: SGD with momentum for weights, Adam for what quantizers learn."""

    def __init__(self, name, network, batch, size):
        torch.manual_seed(0)
        make, channels_last = ROWS[name]
        network = torchvision.models.get_model(network, weights=None, num_classes=CLASSES).train()
        weights = list(network.parameters())
        known = {id(weight) for weight in weights}
        network = make(network)
        images = torch.rand(batch, 3, size, size) * 4 - 2
        if channels_last:
            network = network.to(memory_format=torch.channels_last)
            images = images.to(memory_format=torch.channels_last)
        self.network, self.images = network, images
        self.labels = torch.randint(CLASSES, (batch,))
        with torch.no_grad():
            network(images)
        self.sites = [module for module in network.modules() if isinstance(module, PcaGroups)]
        self.start_bits = sum(float(site.bits().detach()) for site in self.sites)
        learned = [parameter for parameter in network.parameters() if id(parameter) not in known]
        self.optimizers = [torch.optim.SGD(weights, lr=0.01, momentum=0.9, weight_decay=5e-4)]
        if learned:
            self.optimizers.append(torch.optim.Adam(learned, lr=1e-3))

    def step(self):
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        loss = F.cross_entropy(self.network(self.images), self.labels)
        if self.sites:
            excess = sum(site.bits() for site in self.sites) / self.start_bits - 1
            loss = loss + 10 * F.relu(excess) ** 2
        loss.backward()
        for optimizer in self.optimizers:
            optimizer.step()
        for site in self.sites:
            site.bound()
