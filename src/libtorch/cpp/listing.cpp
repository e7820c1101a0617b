// Lists what a baked network does with a batch of images, for writers of other formats: its operations one after the other,
// each with its arguments. The network runs along, so that branches are taken, loops over lists are unrolled, sizes are
// numbers, and whatever doesn't depend on the images is a tensor.
#include "network.h"

#include <torch/csrc/jit/api/function_impl.h>
#include <torch/csrc/jit/ir/ir.h>

#include <cmath>
#include <map>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "baked.h"
#include "json.h"
#include "nodes.h"

namespace dimbit {
namespace {

using c10::IValue;
using torch::jit::Block;
using torch::jit::Node;
using torch::jit::Stack;
using torch::jit::Value;
namespace prim = c10::prim;

// A tensor that doesn't depend on the images.
struct Constant {
  size_t value;
  std::string name;
  at::Tensor tensor;
};

std::string number(double value) {
  std::ostringstream out;
  out << std::setprecision(17) << value;
  return out.str();
}

std::string whole(int64_t value) {
  return std::to_string(value);
}

class Listing {
 public:
  std::vector<Constant> constants;

  // JSON that `Raw` of `src/libtorch/listing.rs` reads.
  std::string list(const torch::jit::Module& module, const at::Tensor& images) {
    const auto method = module.get_method("forward_and_codes");
    const auto graph = torch::jit::toGraphFunction(method.function()).graph();
    values_[graph->inputs()[0]] = module._ivalue();
    values_[graph->inputs()[1]] = images;
    const size_t input = add(images, false);
    run(graph->block());
    const auto result = values_.at(graph->outputs()[0]).toTuple();
    const size_t logits = value_of(result->elements()[0].toTensor(), "the logits");
    std::vector<std::string> codes;
    for (const auto& item : result->elements()[1].toGenericDict())
      codes.push_back("[" + quoted(item.key().toStringRef()) + "," + whole(value_of(item.value().toTensor(), "codes")) + "]");
    const auto as_is = [](const std::string& text) { return text; };
    const auto id = [](const Constant& constant) { return whole(constant.value); };
    return "{\"input\":" + whole(input) + ",\"logits\":" + whole(logits) + ",\"codes\":" + ::dimbit::list(codes, as_is) +
        ",\"constants\":" + ::dimbit::list(constants, id) + ",\"values\":" + ::dimbit::list(types_, as_is) +
        ",\"steps\":" + ::dimbit::list(steps_, as_is) + "}";
  }

 private:
  void run(const Block* block) {
    for (const Node* node : block->nodes()) step(const_cast<Node*>(node));
  }

  const IValue& at(const Value* value) const {
    return values_.at(value);
  }

  void step(Node* node) {
    const auto kind = node->kind();
    if (kind == prim::Constant) {
      const auto constant = torch::jit::toIValue(node->output());
      TORCH_CHECK(constant, "a constant of type ", node->output()->type()->repr_str(), " can't be listed");
      values_[node->output()] = *constant;
    } else if (kind == prim::GetAttr) {
      const auto& object = at(node->input()).toObjectRef();
      const std::string& name = node->s(torch::jit::attr::name);
      const IValue value = object.getAttr(name);
      const std::string path = paths_[node->input()].empty() ? name : paths_[node->input()] + "." + name;
      paths_[node->output()] = path;
      if (value.isTensor()) names_[value.toTensor().unsafeGetTensorImpl()] = path;
      values_[node->output()] = value;
    } else if (kind == prim::If) {
      const Block* taken = node->blocks().at(at(node->input()).toBool() ? 0 : 1);
      run(taken);
      for (size_t i = 0; i < node->outputs().size(); ++i) values_[node->output(i)] = at(taken->outputs()[i]);
    } else if (kind == prim::ListConstruct) {
      c10::impl::GenericList items(node->output()->type()->expectRef<c10::ListType>().getElementType());
      for (const Value* input : node->inputs()) items.push_back(at(input));
      values_[node->output()] = items;
    } else if (kind == prim::TupleConstruct) {
      std::vector<IValue> items;
      for (const Value* input : node->inputs()) items.push_back(at(input));
      values_[node->output()] = c10::ivalue::Tuple::create(std::move(items));
    } else if (kind == prim::DictConstruct) {
      const auto& type = node->output()->type()->expectRef<c10::DictType>();
      c10::impl::GenericDict items(type.getKeyType(), type.getValueType());
      for (size_t i = 0; i + 1 < node->inputs().size(); i += 2) items.insert(at(node->input(i)), at(node->input(i + 1)));
      values_[node->output()] = items;
    } else if (kind == prim::ListUnpack) {
      const auto items = at(node->input()).toList();
      for (size_t i = 0; i < node->outputs().size(); ++i) values_[node->output(i)] = items.get(i);
    } else if (kind == prim::TupleUnpack) {
      const auto items = at(node->input()).toTuple();
      for (size_t i = 0; i < node->outputs().size(); ++i) values_[node->output(i)] = items->elements()[i];
    } else if (kind != c10::aten::warn) {
      call(node);
    }
  }

  void call(Node* node) {
    TORCH_CHECK(node->blocks().empty() && node->maybeOperator(), "`", node->kind().toQualString(), "`", place_text(node), " can't be listed");
    Stack stack;
    std::vector<at::Tensor> read;
    for (const Value* input : node->inputs()) {
      stack.push_back(at(input));
      collect(stack.back(), read);
    }
    bool follows = false;
    for (const auto& tensor : read) follows |= depends(tensor, node);
    const bool in_place = follows && writes(node, stack);
    const std::string arguments = follows ? arguments_of(node, stack) : "";
    if (in_place) {
      const size_t written = value_of(stack[0].toTensor(), "");
      TORCH_CHECK(!is_constant_[written], "`", node->kind().toQualString(), "`", place_text(node), " writes into a parameter or buffer");
    }
    node->getOperation()(stack);
    std::vector<at::Tensor> made;
    for (size_t i = 0; i < node->outputs().size(); ++i) {
      values_[node->output(i)] = stack.at(stack.size() - node->outputs().size() + i);
      collect(at(node->output(i)), made);
    }
    if (!follows) return name_after(node, read, made);
    if (made.empty()) {
      TORCH_CHECK(!tells_values(node), "`", node->kind().toQualString(), "`", place_text(node), " decides by the values of a tensor");
      return;
    }
    // Nothing happens where every tensor that comes out went in: lists, dropout in evaluation, conversion to the same type.
    bool is_new = in_place;
    for (const auto& tensor : made) is_new |= !ids_.count(tensor.unsafeGetTensorImpl());
    if (!is_new) return;
    if (in_place) forget_views(made[0]);
    std::vector<size_t> outputs;
    for (const auto& tensor : made) outputs.push_back(add(tensor, false));
    steps_.push_back("{\"kind\":" + quoted(node->kind().toQualString()) + ",\"place\":" + quoted(place(node)) + ",\"arguments\":{" +
                     arguments + "},\"outputs\":" + ::dimbit::list(outputs, whole) + "}");
  }

  // What is computed from weights alone is named after the first of them.
  void name_after(const Node* node, const std::vector<at::Tensor>& read, const std::vector<at::Tensor>& made) {
    for (const auto& tensor : read) {
      const auto found = names_.find(tensor.unsafeGetTensorImpl());
      if (found == names_.end()) continue;
      const std::string name = found->second + "." + plain_kind(node);
      for (const auto& result : made) names_.emplace(result.unsafeGetTensorImpl(), name);
      return;
    }
  }

  static void collect(const IValue& value, std::vector<at::Tensor>& tensors) {
    if (value.isTensor()) {
      if (value.toTensor().defined()) tensors.push_back(value.toTensor());
    } else if (value.isList()) {
      for (const IValue& item : value.toListRef()) collect(item, tensors);
    } else if (value.isTuple()) {
      for (const IValue& item : value.toTupleRef().elements()) collect(item, tensors);
    }
  }

  // Whether something other than a tensor is made of a tensor's values, rather than of its shape or presence.
  static bool tells_values(const Node* node) {
    const std::string kind = plain_kind(node);
    return is_aten(node) && reads_values({const_cast<Node*>(node), 0}) && kind != "__is__" && kind != "__isnot__" && kind != "is_contiguous" &&
        kind != "stride";
  }

  static bool writes(const Node* node, const Stack& stack) {
    const auto* schema = node->maybeSchema();
    if (!schema || schema->arguments().empty() || !stack[0].isTensor()) return false;
    const auto* alias = schema->arguments()[0].alias_info();
    return alias && alias->isWrite();
  }

  bool depends(const at::Tensor& tensor, const Node* node) const {
    const auto* key = tensor.unsafeGetTensorImpl();
    TORCH_CHECK(!stale_.count(key), "`", node->kind().toQualString(), "`", place_text(node), " reads a view of a tensor that was written in place");
    const auto found = ids_.find(key);
    return found != ids_.end() && !is_constant_[found->second];
  }

  // What is written in place changes its views, which a list of values can't tell.
  void forget_views(const at::Tensor& written) {
    for (const auto& tensor : alive_)
      if (tensor.unsafeGetTensorImpl() != written.unsafeGetTensorImpl() && tensor.is_alias_of(written)) stale_.insert(tensor.unsafeGetTensorImpl());
  }

  size_t add(const at::Tensor& tensor, bool is_constant) {
    const size_t id = types_.size();
    alive_.push_back(tensor);
    ids_[tensor.unsafeGetTensorImpl()] = id;
    is_constant_.push_back(is_constant);
    types_.push_back("{\"shape\":" + ::dimbit::list(tensor.sizes(), whole) + ",\"kind\":" + quoted(c10::toString(tensor.scalar_type())) + "}");
    return id;
  }

  size_t value_of(const at::Tensor& tensor, const std::string& fallback) {
    const auto found = ids_.find(tensor.unsafeGetTensorImpl());
    if (found != ids_.end()) return found->second;
    const auto name = names_.find(tensor.unsafeGetTensorImpl());
    const size_t id = add(tensor, true);
    constants.push_back({id, name != names_.end() ? name->second : fallback, tensor});
    return id;
  }

  std::string arguments_of(const Node* node, const Stack& stack) {
    const auto* schema = node->maybeSchema();
    std::string text;
    for (size_t i = 0; i < stack.size(); ++i) {
      const std::string content = argument(stack[i], place(node));
      if (content.empty()) continue;
      const std::string name = schema && i < schema->arguments().size() ? schema->arguments()[i].name() : whole(i);
      text += (text.empty() ? "" : ",") + quoted(name) + ":" + content;
    }
    return text;
  }

  // Nothing for `None`.
  std::string argument(const IValue& value, const std::string& place) {
    const auto tensor = [&](const at::Tensor& t) { return whole(value_of(t, place)); };
    if (value.isNone() || (value.isTensor() && !value.toTensor().defined())) return "";
    if (value.isTensor()) return "{\"value\":" + tensor(value.toTensor()) + "}";
    if (value.isTensorList()) return "{\"values\":" + ::dimbit::list(value.toTensorVector(), tensor) + "}";
    if (value.isBool()) return std::string("{\"bool\":") + (value.toBool() ? "true" : "false") + "}";
    if (value.isInt()) return "{\"int\":" + whole(value.toInt()) + "}";
    if (value.isDouble() && std::isfinite(value.toDouble())) return "{\"float\":" + number(value.toDouble()) + "}";
    if (value.isIntList()) return "{\"ints\":" + ::dimbit::list(value.toIntVector(), whole) + "}";
    if (value.isString()) return "{\"text\":" + quoted(value.toStringRef()) + "}";
    std::ostringstream out;
    out << value;
    return "{\"text\":" + quoted(out.str()) + "}";
  }

  // Dotted path of the module that the node belongs to.
  static std::string place(const Node* node) {
    const std::string scope = node->scopeName();
    return scope.size() > 5 ? scope.substr(5) : "";
  }

  static std::string place_text(const Node* node) {
    const std::string path = place(node);
    return path.empty() ? "" : " in `" + path + "`";
  }

  std::unordered_map<const Value*, IValue> values_;
  std::unordered_map<const Value*, std::string> paths_;
  std::unordered_map<const c10::TensorImpl*, std::string> names_;
  // The newest value of a tensor. All of them stay alive: an address means one tensor.
  std::unordered_map<const c10::TensorImpl*, size_t> ids_;
  std::set<const c10::TensorImpl*> stale_;
  std::vector<at::Tensor> alive_;
  std::vector<bool> is_constant_;
  std::vector<std::string> types_;
  std::vector<std::string> steps_;
};

} // namespace
} // namespace dimbit

extern "C" {

// `images`: [batch, channels, height, width] on the CPU. `visit` is called once for each entry of the list's `constants`, in
// order, and takes the tensor over.
int dimbit_baked_list(
    const dimbit::Baked* baked, const at::Tensor* images, void (*visit)(void* context, const char* name, int is_parameter, at::Tensor* tensor),
    void* context, char** json, char** error) {
  return dimbit::guarded(error, [&] {
    at::NoGradGuard no_grad;
    dimbit::Listing listing;
    const std::string text = listing.list(baked->module, *images);
    for (const auto& constant : listing.constants) visit(context, constant.name.c_str(), 0, new at::Tensor(constant.tensor));
    *json = dimbit::copy_text(text);
  });
}

} // extern "C"
