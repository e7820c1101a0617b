#include "assembly.h"

#include <torch/csrc/jit/passes/dead_code_elimination.h>
#include <torch/script.h>

#include <map>

namespace dimbit {
namespace {

using torch::jit::Graph;
using torch::jit::Module;
using torch::jit::Node;
using torch::jit::Value;

// A module of `entries` whose submodules are made as the dotted paths say.
class Assembly {
 public:
  Assembly() : unit_(std::make_shared<torch::jit::CompilationUnit>()), root(make("Network")) {
    modules_.emplace("", root);
  }

  // Registers a tensor; hands back the names that lead to it.
  std::vector<std::string> put(const Entry& entry) {
    std::vector<std::string> names;
    size_t start = 0;
    for (size_t dot; (dot = entry.path.find('.', start)) != std::string::npos; start = dot + 1)
      names.push_back(entry.path.substr(start, dot - start));
    std::string leaf = entry.path.substr(start), path;
    Module* owner = &modules_.at("");
    for (const auto& name : names) {
      path += (path.empty() ? "" : ".") + name;
      auto found = modules_.find(path);
      if (found == modules_.end()) {
        found = modules_.emplace(path, make("Part")).first;
        owner->register_module(name, found->second);
      }
      owner = &found->second;
    }
    const std::string wanted = leaf;
    for (int count = 2; owner->hasattr(leaf); ++count) leaf = wanted + "_" + std::to_string(count);
    // Rounding passes no gradient: nothing here can be trained.
    owner->register_parameter(leaf, entry.tensor.detach().set_requires_grad(false), !entry.is_parameter);
    names.push_back(leaf);
    return names;
  }

  void define(const char* name, std::shared_ptr<Graph> graph) {
    graph->inputs()[0]->setType(root.type())->setDebugName("self");
    graph->inputs()[1]->setDebugName("images");
    root.type()->addMethod(unit_->create_function(c10::QualifiedName(*root.type()->name(), name), std::move(graph)));
  }

 private:
  Module make(const char* name) {
    Module module(c10::QualifiedName("__torch__.dimbit", name), unit_, /*shouldMangle=*/true);
    // Python's `eval()` and `train()` look for it.
    module.register_attribute("training", c10::BoolType::get(), false);
    return module;
  }

  std::shared_ptr<torch::jit::CompilationUnit> unit_;
  std::map<std::string, Module> modules_;

 public:
  Module root;
};

} // namespace

Module assemble(Plain& plain, const std::vector<std::pair<std::string, Value*>>& codes) {
  Graph& graph = *plain.graph;
  for (const auto& item : codes) graph.registerOutput(item.second);
  torch::jit::EliminateDeadCode(plain.graph);
  Assembly assembly;
  {
    torch::jit::WithInsertPoint guard(graph.block()->nodes().front());
    for (size_t i = 0; i < plain.entries.size(); ++i) {
      Value* input = graph.inputs()[i + 2];
      if (input->uses().empty()) continue;
      Value* value = graph.inputs()[0];
      const auto names = assembly.put(plain.entries[i]);
      const Module* owner = &assembly.root;
      Module next = *owner;
      for (size_t n = 0; n < names.size(); ++n) {
        Node* get = graph.create(c10::prim::GetAttr, {value});
        get->s_(torch::jit::attr::name, names[n]);
        if (n + 1 < names.size()) {
          next = next.attr(names[n]).toModule();
          get->output()->setType(next.type());
        } else {
          get->output()->setType(c10::TensorType::get());
        }
        value = graph.insertNode(get)->output();
      }
      input->replaceAllUsesWith(value);
    }
  }
  while (graph.inputs().size() > 2) graph.eraseInput(graph.inputs().size() - 1);
  TORCH_CHECK(graph.outputs()[0]->type()->isSubtypeOf(*c10::TensorType::get()), "`forward` returns ", graph.outputs()[0]->type()->repr_str(), " rather than logits");
  auto both = graph.copy();
  std::vector<Value*> keys, values;
  {
    torch::jit::WithInsertPoint guard(both->block());
    for (size_t i = 0; i < codes.size(); ++i) {
      keys.push_back(both->insertConstant(codes[i].first));
      values.push_back(both->outputs()[i + 1]);
    }
    Node* dict = both->insertNode(both->createDict(c10::StringType::get(), c10::TensorType::get(), keys, values));
    Node* tuple = both->insertNode(both->createTuple({both->outputs()[0], dict->output()}));
    while (!both->outputs().empty()) both->eraseOutput(both->outputs().size() - 1);
    both->registerOutput(tuple->output());
  }
  while (graph.outputs().size() > 1) graph.eraseOutput(graph.outputs().size() - 1);
  torch::jit::EliminateDeadCode(plain.graph);
  assembly.define("forward", plain.graph);
  assembly.define("forward_and_codes", both);
  return assembly.root;
}

} // namespace dimbit
