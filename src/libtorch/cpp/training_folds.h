// Layers that carry out half of a codec's transform while the network trains: the weights are transformed in every step, by
// operations that autograd records, in place of the activations.
#pragma once

#include <torch/csrc/jit/ir/ir.h>

namespace dimbit {

// Whether whoever reads what `activation` gives is a dense convolution without padding or a linear layer, and asks it for
// nothing else, such as its shape.
bool readers_train_folded(const torch::jit::Node* activation, bool channels_last);

// Lets the layers around `activation`, the graph's `site`-th, ask in each run whether they are to carry out half of its codec's
// transform: the dense convolution or linear layer that makes the pre-activation, by itself or with a batch normalisation
// behind it that is in evaluation at that moment, and the readers that `readers_train_folded` tells of.
void prepare_training_folds(torch::jit::Graph& graph, torch::jit::Node* activation, bool channels_last, int64_t site);

// What a fold asks of the run's hook. It answers by the map of the half that is to be folded, as a matrix whose last row is
// the constant: [channels + 1, kept] or [kept + 1, channels]; undefined where the half stays in the codec.
at::Tensor asked_map(int64_t site, bool of_readers, const at::Tensor& weight);

} // namespace dimbit
