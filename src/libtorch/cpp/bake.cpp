// Bakes codecs into a network as plain operations over buffers, for TorchScript files that run without this project.
#include "network.h"

#include <caffe2/serialize/inline_container.h>
#include <torch/csrc/jit/passes/constant_propagation.h>
#include <torch/csrc/jit/passes/dead_code_elimination.h>
#include <torch/csrc/jit/passes/peephole.h>
#include <torch/csrc/jit/passes/shape_analysis.h>

#include <cerrno>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "absorb.h"
#include "assembly.h"
#include "baked.h"
#include "json.h"
#include "layout.h"
#include "nodes.h"
#include "sites.h"

namespace dimbit {
namespace {

using torch::jit::Block;
using torch::jit::Module;
namespace aten = c10::aten;
namespace prim = c10::prim;

// A codec as `src/compress/plain.rs` describes it; mirrored by `CPlainSite` of `src/libtorch/bake.rs`.
struct PlainSite {
  int64_t index;
  // 0 before the activation function, 1 after it.
  int64_t position;
  // Dimensions of the site's tensor, the batch included.
  int64_t dimensions;
  int64_t channels_last;
  // Let neighbouring layers absorb one half of the transform, where they can.
  int64_t fold;
  int64_t has_lower_bound;
  double lower_bound;
  // The site's name, and an identifier that its buffers are found by.
  const char* name;
  const char* key;
  const at::Tensor *step, *offset, *low, *high;
  // Null without a transform.
  const at::Tensor *analysis, *bias, *synthesis, *mean;
};

// The value behind a chain of attributes that starts at `self`, and its dotted path.
struct Attribute {
  c10::IValue value;
  std::string path;
  bool is_parameter;
};

std::optional<Attribute> attribute(const Value* value, const Graph& graph, const Module& module) {
  if (value == graph.inputs()[0]) return Attribute{module._ivalue(), "", false};
  const Node* node = value->node();
  if (node->kind() != prim::GetAttr) return std::nullopt;
  const auto owner = attribute(node->input(), graph, module);
  if (!owner || !owner->value.isObject()) return std::nullopt;
  const auto& object = owner->value.toObjectRef();
  const std::string& name = node->s(torch::jit::attr::name);
  const auto slot = object.type()->getAttributeSlot(name);
  return Attribute{object.getSlot(slot), owner->path.empty() ? name : owner->path + "." + name, object.type()->is_parameter(slot)};
}

// Tensors become inputs of the graph, every other attribute a constant, `training` among them.
void lift(Block* block, Plain& plain, const Module& module, std::map<std::string, Value*>& lifted) {
  for (auto it = block->nodes().begin(); it != block->nodes().end();) {
    Node* node = *it++;
    for (Block* inner : node->blocks()) lift(inner, plain, module, lifted);
    if (node->kind() != prim::GetAttr) continue;
    const auto found = attribute(node->output(), *plain.graph, module);
    if (!found || found->value.isObject()) continue;
    Value* replacement = nullptr;
    if (found->value.isTensor()) {
      Value*& input = lifted[found->path];
      if (!input) input = plain.add(found->path, found->value.toTensor().to(at::kCPU), found->is_parameter);
      replacement = input;
    } else {
      torch::jit::WithInsertPoint guard(node);
      const auto constant = torch::jit::tryInsertConstant(*plain.graph, found->value);
      TORCH_CHECK(constant, "the attribute `", found->path, "` of type ", node->output()->type()->repr_str(), " can't be carried into the file");
      replacement = *constant;
    }
    node->output()->replaceAllUsesWith(replacement);
    node->destroy();
  }
}

void remove_dropouts(Block* block) {
  for (auto it = block->nodes().begin(); it != block->nodes().end();) {
    Node* node = *it++;
    for (Block* inner : node->blocks()) remove_dropouts(inner);
    if (!is_dropout(node)) continue;
    const auto train = torch::jit::toIValue(node->input(2));
    if (!train || !train->isBool() || train->toBool()) continue;
    node->output()->replaceAllUsesWith(node->input(0));
    node->destroy();
  }
}

// The logits alone, of a network that returns more.
Value* logits(Value* output) {
  Node* node = output->node();
  if (node->kind() == prim::TupleConstruct && !node->inputs().empty()) return logits(node->input(0));
  if (node->kind() == prim::DictConstruct)
    for (size_t i = 0; i + 1 < node->inputs().size(); i += 2) {
      const auto key = torch::jit::toIValue(node->input(i));
      if (key && key->isString() && key->toStringRef() == "out") return logits(node->input(i + 1));
    }
  return output;
}

void simplify(std::shared_ptr<Graph>& graph) {
  for (int round = 0; round < 2; ++round) {
    torch::jit::ConstantPropagation(graph);
    torch::jit::PeepholeOptimize(graph);
    torch::jit::EliminateDeadCode(graph);
  }
}

// `forward` in evaluation over the tensors of `module`, with a placeholder on each side of every activation function.
Plain plain_forward(const Module& module) {
  Plain plain{inline_forward(module), {}};
  Graph& graph = *plain.graph;
  // What tracing noted of the example's shape must not become a constant.
  torch::jit::EraseShapeInformation(plain.graph);
  instrument(graph);
  const auto& arguments = module.get_method("forward").function().getSchema().arguments();
  while (graph.inputs().size() > 2) {
    const size_t last = graph.inputs().size() - 1;
    torch::jit::WithInsertPoint guard(graph.block()->nodes().front());
    graph.inputs()[last]->replaceAllUsesWith(graph.insertConstant(*arguments[last].default_value()));
    graph.eraseInput(last);
  }
  std::map<std::string, Value*> lifted;
  lift(graph.block(), plain, module, lifted);
  simplify(plain.graph);
  remove_dropouts(graph.block());
  Value* output = logits(graph.outputs()[0]);
  graph.eraseOutput(0);
  graph.registerOutput(output);
  return plain;
}

// A copy that is contiguous, with the standard strides of dimensions of size 1 as well, as `contiguous` would not have it.
Value* contiguous_copy(Graph& graph, Value* x) {
  return graph.insert(aten::clone, {x}, {{"memory_format", static_cast<int64_t>(at::MemoryFormat::Contiguous)}});
}

// One site's codec as nodes. Values have the channels where the site's tensor has them, but for those named `rows`, which
// have them last.
class SiteWriter {
 public:
  SiteWriter(Plain& plain, const PlainSite& site) : plain_(plain), site_(site), moved_(!site.channels_last && site.dimensions > 2) {}

  bool folded = false;
  // int16, the channels where the site's tensor has them.
  Value* codes = nullptr;

  // Replaces a placeholder.
  void write(Node* placeholder) {
    Value* x = placeholder->input(0);
    torch::jit::WithInsertPoint guard(placeholder);
    if (!site_.analysis) return finish(placeholder, quantize(x, moved_));
    if (site_.analysis->size(1) == 0) return finish(placeholder, mean_everywhere(x));
    const bool before = site_.position == 0;
    folded = site_.fold && (before ? producers_absorb(plain_, x) : readers_absorb(plain_, placeholder->output()));
    Value* rows = folded && before ? last(transform_producers(plain_, x, wide(*site_.analysis), wide(*site_.bias)))
                                   : emit(aten::linear, {last(x), buffer("analysis", site_.analysis->t()), buffer("analysis_bias", *site_.bias)});
    rows = quantize(rows, false);
    if (folded && !before) {
      transform_readers(plain_, placeholder->output(), laid_out(back(rows)), wide(*site_.synthesis), wide(*site_.mean));
      // What is left asks for the shape alone.
      return finish(placeholder, x);
    }
    Value* y = laid_out(back(emit(aten::linear, {rows, buffer("synthesis", site_.synthesis->t()), buffer("mean", *site_.mean)})));
    if (site_.has_lower_bound) y = emit(aten::clamp_min, {y, site_.lower_bound});
    finish(placeholder, y);
  }

 private:
  Value* emit(c10::Symbol kind, std::initializer_list<torch::jit::NamedValue> arguments) {
    return plain_.graph->insert(kind, std::vector<torch::jit::NamedValue>(arguments));
  }

  static at::Tensor wide(const at::Tensor& tensor) {
    return tensor.detach().to(at::kCPU, at::kDouble);
  }

  Value* buffer(const char* name, const at::Tensor& tensor) {
    return plain_.add(std::string("codecs.") + site_.key + "." + name, tensor.detach().to(at::kCPU));
  }

  // The channels last.
  Value* last(Value* x) {
    if (!moved_) return x;
    std::vector<int64_t> order{0};
    for (int64_t d = 2; d < site_.dimensions; ++d) order.push_back(d);
    order.push_back(1);
    return emit(aten::permute, {x, order});
  }

  // The way back from `last`.
  Value* back(Value* rows) {
    if (!moved_) return rows;
    std::vector<int64_t> order{0, site_.dimensions - 1};
    for (int64_t d = 1; d < site_.dimensions - 1; ++d) order.push_back(d);
    return emit(aten::permute, {rows, order});
  }

  // As layers read it.
  Value* laid_out(Value* x) { return moved_ ? contiguous_copy(*plain_.graph, x) : x; }

  // The reconstruction; sets `codes`. `inner`: the channels are the second dimension of more.
  Value* quantize(Value* z, bool inner) {
    const auto vector = [&](const char* name, const at::Tensor& tensor) {
      std::vector<int64_t> shape{tensor.numel()};
      if (inner) shape.resize(site_.dimensions - 1, 1);
      return buffer(name, tensor.reshape(shape));
    };
    Value* step = vector("step", *site_.step);
    Value* offset = site_.offset->count_nonzero().item<int64_t>() ? vector("offset", *site_.offset) : nullptr;
    Value* level = offset ? emit(aten::sub, {z, offset}) : z;
    level = emit(aten::round, {emit(aten::mul, {level, emit(aten::reciprocal, {step})})});
    level = emit(aten::minimum, {emit(aten::maximum, {level, vector("low", *site_.low)}), vector("high", *site_.high)});
    set_codes(site_.analysis ? back(level) : level);
    Value* value = emit(aten::mul, {level, step});
    return offset ? emit(aten::add, {value, offset}) : value;
  }

  Value* mean_everywhere(Value* x) {
    set_codes(emit(aten::narrow, {x, site_.channels_last ? site_.dimensions - 1 : int64_t(1), int64_t(0), int64_t(0)}));
    std::vector<int64_t> shape{site_.mean->numel()};
    if (moved_) shape.resize(site_.dimensions - 1, 1);
    return emit(aten::add, {emit(aten::zeros_like, {x}), buffer("mean", site_.mean->reshape(shape))});
  }

  void set_codes(Value* level) {
    codes = emit(aten::to, {level, static_cast<int64_t>(at::kShort), false, false});
  }

  static void finish(Node* placeholder, Value* value) {
    placeholder->output()->replaceAllUsesWith(value);
    placeholder->destroy();
  }

  Plain& plain_;
  const PlainSite& site_;
  bool moved_;
};

void collect(Block* block, std::vector<Node*>& placeholders) {
  for (Node* node : block->nodes()) {
    if (node->kind().ns().toUnqualString() == std::string("dimbit")) placeholders.push_back(node);
    for (Block* inner : node->blocks()) collect(inner, placeholders);
  }
}

void check_plain(const Block* block) {
  for (const Node* node : block->nodes()) {
    TORCH_CHECK(node->kind() != prim::SetAttr, "`forward` writes the attribute `", node->s(torch::jit::attr::name), "` in evaluation, which an export can't");
    for (const Block* inner : node->blocks()) check_plain(inner);
  }
}

} // namespace

Baked* bake(const Network& network, const PlainSite* sites, int64_t count, bool fold_batch_norm, std::string& folded_json) {
  at::NoGradGuard no_grad;
  Module module = deep_copy(module_of(network));
  lay_out_contiguous(module);
  module.eval();
  Plain plain = plain_forward(module);
  Graph& graph = *plain.graph;
  std::vector<Node*> placeholders;
  collect(graph.block(), placeholders);
  std::vector<std::pair<Node*, const PlainSite*>> places;
  for (Node* node : placeholders) {
    const int64_t index = torch::jit::toIValue(node->input(1))->toInt();
    const int64_t position = node->kind().toUnqualString() == std::string("after");
    const PlainSite* found = nullptr;
    for (int64_t i = 0; i < count; ++i)
      if (sites[i].index == index && sites[i].position == position) found = &sites[i];
    if (found) {
      places.emplace_back(node, found);
    } else {
      node->output()->replaceAllUsesWith(node->input(0));
      node->destroy();
    }
  }
  std::vector<std::pair<std::string, Value*>> codes;
  std::vector<std::string> folded;
  for (const auto& [node, site] : places) {
    SiteWriter writer(plain, *site);
    writer.write(node);
    codes.emplace_back(site->name, writer.codes);
    if (writer.folded) folded.push_back(site->key);
    // A layer that was rewritten must not count as a reader of its input any more.
    for (const auto& item : codes) graph.registerOutput(item.second);
    torch::jit::EliminateDeadCode(plain.graph);
    for (size_t i = 0; i < codes.size(); ++i) graph.eraseOutput(graph.outputs().size() - 1);
  }
  std::vector<std::string> norms;
  if (fold_batch_norm) norms = fold_norms(plain);
  check_plain(graph.block());
  {
    // Contiguous, as the network was evaluated; a copy, since a layer may write in place.
    torch::jit::WithInsertPoint guard(graph.block()->nodes().front());
    Value* images = graph.inputs()[1];
    Value* copy = contiguous_copy(graph, images);
    images->replaceAllUsesAfterNodeWith(copy->node(), copy);
  }
  folded_json = "{\"transforms\":" + list(folded, quoted) + ",\"batch_norms\":" + list(norms, quoted) + "}";
  return new Baked{assemble(plain, codes)};
}

} // namespace dimbit

using dimbit::guarded;

extern "C" {

int dimbit_bake(
    const dimbit::Network* network, const dimbit::PlainSite* sites, int64_t count, int fold_batch_norm, dimbit::Baked** out, char** folded, char** error) {
  return guarded(error, [&] {
    std::string json;
    *out = dimbit::bake(*network, sites, count, fold_batch_norm != 0, json);
    *folded = dimbit::copy_text(json);
  });
}

int dimbit_baked_save(const dimbit::Baked* baked, const char* path, const char* name, const char* text, char** error) {
  return guarded(error, [&] {
    // By a stream: the archive of a path would be named after it, and here the path is a temporary one.
    std::ofstream out(path, std::ios::binary);
    baked->module.save(out, {{name, text}});
    out.close();
    TORCH_CHECK(out, "the file system refused it: ", std::strerror(errno));
  });
}

void dimbit_baked_free(dimbit::Baked* baked) {
  delete baked;
}

// The text of an extra file of a TorchScript archive; null where there is none of that name.
int dimbit_extra_file(const char* path, const char* name, char** text, char** error) {
  return guarded(error, [&] {
    caffe2::serialize::PyTorchStreamReader reader{std::string(path)};
    const std::string record = std::string("extra/") + name;
    if (!reader.hasRecord(record)) return;
    const auto [data, size] = reader.getRecord(record);
    *text = dimbit::copy_text(std::string(static_cast<const char*>(data.get()), size));
  });
}

} // extern "C"
