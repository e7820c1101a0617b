// Loading, inspecting, instrumenting and running a TorchScript network.
#include "network.h"

#include <ATen/Context.h>
#include <ATen/DeviceAccelerator.h>
#include <ATen/Parallel.h>
#include <torch/csrc/jit/runtime/custom_operator.h>
#include <torch/csrc/jit/runtime/interpreter.h>
#include <torch/version.h>

#include <cmath>
#include <iomanip>
#include <mutex>
#include <sstream>

#include "json.h"
#include "layout.h"
#include "packed.h"
#include "sites.h"
#include "training_folds.h"

using torch::jit::Code;
using torch::jit::Stack;

namespace dimbit {
namespace {

// One call for every instrumented node. `position` is 0 before the activation function, 1 after it, 2 for a tensor that
// is only observed, 3 and 4 for weights that may take a transform on, those of the layer in front and those of a reader.
// Returns a tensor that C++ takes over, or null where `input` is to be used unchanged. `*status` is set
// on failure, or before an activation function for a tensor that stands for the function's result already.
using Hook = at::Tensor* (*)(void* context, int64_t index, int64_t position, const at::Tensor* input, const at::Tensor* weight, int* status);
constexpr int kFailed = 1, kActivated = 2;

struct ActiveHook {
  Hook hook = nullptr;
  void* context = nullptr;
};

// The interpreter runs a graph without forks on the calling thread, so a thread-local finds the run's hook.
thread_local ActiveHook active;

struct HookGuard {
  ActiveHook previous;
  explicit HookGuard(ActiveHook next) : previous(active) {
    active = next;
  }
  ~HookGuard() {
    active = previous;
  }
};

struct HookFailure : std::exception {
  const char* what() const noexcept override {
    return "hook failed";
  }
};

// Leaves the tensor to go on with on the stack; true if it stands for the activation function's result.
bool call_hook(Stack& stack, int64_t position) {
  const int64_t index = torch::jit::pop(stack).toInt();
  at::Tensor input = torch::jit::pop(stack).toTensor();
  int status = 0;
  if (active.hook) {
    if (Packing* packing = Packing::active()) packing->release(input);
    std::unique_ptr<at::Tensor> output(active.hook(active.context, index, position, &input, nullptr, &status));
    if (status == kFailed) throw HookFailure();
    if (output) input = *output;
  }
  torch::jit::push(stack, std::move(input));
  return status == kActivated;
}

void call_observer(Stack& stack) {
  const int64_t index = torch::jit::pop(stack).toInt();
  const at::Tensor weight = torch::jit::pop(stack).toTensor();
  const at::Tensor value = torch::jit::pop(stack).toTensor();
  if (!active.hook) return;
  int status = 0;
  active.hook(active.context, index, 2, &value, &weight, &status);
  if (status == kFailed) throw HookFailure();
}

// Conservative aliasing: no pass may reorder, merge or remove a hook.
const torch::jit::RegisterOperators registered({
    torch::jit::Operator(
        "dimbit::before(Tensor x, int site) -> Tensor",
        [](Stack& stack) { call_hook(stack, 0); },
        c10::AliasAnalysisKind::CONSERVATIVE),
    torch::jit::Operator(
        "dimbit::offer(Tensor x, int site) -> (Tensor, bool)",
        [](Stack& stack) {
          const bool activated = call_hook(stack, 0);
          torch::jit::push(stack, activated);
        },
        c10::AliasAnalysisKind::CONSERVATIVE),
    torch::jit::Operator(
        "dimbit::after(Tensor x, int site) -> Tensor",
        [](Stack& stack) { call_hook(stack, 1); },
        c10::AliasAnalysisKind::CONSERVATIVE),
    torch::jit::Operator(
        "dimbit::observe(Tensor value, Tensor weight, int index) -> ()",
        [](Stack& stack) { call_observer(stack); },
        c10::AliasAnalysisKind::CONSERVATIVE),
});

void fold_into_layers(Graph& graph) {
  const Survey found = survey(graph);
  for (size_t i = 0; i < found.sites.size(); ++i)
    prepare_training_folds(graph, found.sites[i].node, found.sites[i].channels_last, static_cast<int64_t>(i));
}

Value* tensor_constant(Graph& graph) {
  return graph.insertConstant(at::empty({0}));
}

// Observers on sites (index 0..S), computes (S..S+M) and stored tensors (S+M..): a probe run tells all shapes.
void observe(Graph& graph, const Survey& found) {
  torch::jit::WithInsertPoint guard(graph.block()->nodes().front());
  Value* none = tensor_constant(graph);
  int64_t index = 0;
  auto insert = [&](Value* value, Value* weight) {
    Value* number = graph.insertConstant(index++);
    Node* node = graph.create(c10::Symbol::fromQualString("dimbit::observe"), {value, weight, number}, 0);
    node->insertAfter(value->node());
  };
  for (const Site& site : found.sites) insert(site.node->output(), none);
  for (const Compute& compute : found.computes) insert(compute.node->output(), compute.weight);
  for (const Stored& stored : found.stored) insert(stored.value, none);
}

std::string number(double value) {
  if (!std::isfinite(value)) return "null";
  std::ostringstream out;
  out << std::setprecision(17) << value;
  return out.str();
}

std::string to_json(const Survey& found) {
  const auto fold = [](Fold value) -> std::string {
    return value == Fold::never ? "\"never\"" : value == Fold::flat ? "\"flat\"" : "\"always\"";
  };
  return "{\"sites\":" + list(found.sites, [&](const Site& site) {
           return "{\"name\":" + quoted(site.name) + ",\"kind\":" + quoted(site.kind) + ",\"producer\":" + quoted(site.producer) +
               ",\"consumers\":" + list(site.consumers, quoted) + ",\"low\":" + number(site.low) + ",\"high\":" + number(site.high) +
               ",\"channels_last\":" + (site.channels_last ? "true" : "false") + ",\"folds_forward\":" + fold(site.folds_forward) +
               ",\"folds_inverse\":" + fold(site.folds_inverse) +
               ",\"readers_train_folded\":" + (readers_train_folded(site.node, site.channels_last) ? "true" : "false") + "}";
         }) +
      ",\"computes\":" + list(found.computes, [](const Compute& compute) {
           const std::string kind = compute.node->kind().toUnqualString();
           return "{\"name\":" + quoted(compute.name) + ",\"kind\":" + quoted(kind) + "}";
         }) +
      ",\"stored\":" + list(found.stored, [](const Stored& stored) {
           return "{\"name\":" + quoted(stored.name) + ",\"sites\":" + list(stored.sites, [](int64_t s) { return std::to_string(s); }) + "}";
         }) +
      ",\"norm_is_baked\":" + (found.norm_is_baked ? "true" : "false") + "}";
}

void check_forward(const torch::jit::Module& module) {
  auto method = module.find_method("forward");
  TORCH_CHECK(method, "the module has no `forward` method");
  const auto& arguments = method->function().getSchema().arguments();
  bool fits = arguments.size() >= 2 && arguments[1].type()->isSubtypeOf(*c10::TensorType::get());
  for (size_t i = 2; i < arguments.size(); ++i) fits = fits && arguments[i].default_value().has_value();
  if (!fits) {
    std::ostringstream signature;
    signature << method->function().getSchema();
    TORCH_CHECK(false, "`forward` must take one image tensor, but it is declared as ", signature.str());
  }
}

at::Tensor first_tensor(const c10::IValue& value) {
  if (value.isTensor()) return value.toTensor();
  if (value.isTuple() && !value.toTupleRef().elements().empty()) return first_tensor(value.toTupleRef().elements()[0]);
  if (value.isGenericDict()) {
    auto dict = value.toGenericDict();
    if (dict.contains("out")) return first_tensor(dict.at("out"));
  }
  TORCH_CHECK(false, "`forward` must return a tensor of logits (or a tuple that starts with one), not a value of type ", value.type()->repr_str());
}

} // namespace

at::Tensor asked_map(int64_t site, bool of_readers, const at::Tensor& weight) {
  if (!active.hook) return {};
  int status = 0;
  std::unique_ptr<at::Tensor> map(active.hook(active.context, site, of_readers ? 4 : 3, &weight, nullptr, &status));
  if (status == kFailed) throw HookFailure();
  return map ? *map : at::Tensor();
}

std::vector<HookedNode> instrument(Graph& graph) {
  const Survey found = survey(graph);
  std::vector<HookedNode> hooked;
  for (const Site& site : found.sites) {
    Node* node = site.node;
    torch::jit::WithInsertPoint before_guard(node);
    Value* number = graph.insertConstant(static_cast<int64_t>(hooked.size()));
    Node* before = graph.create(c10::Symbol::fromQualString("dimbit::before"), {node->input(0), number});
    before->insertBefore(node);
    node->replaceInput(0, before->output());
    Node* after = graph.create(c10::Symbol::fromQualString("dimbit::after"), {node->output(), number});
    after->insertAfter(node);
    node->output()->replaceAllUsesDominatedByNodeWith(after, after->output());
    hooked.push_back({before, node, after});
  }
  return hooked;
}

namespace {

// Lets a hook before an activation function take the function's place:
// `y, activated = offer(x); if activated: y else: after(f(y))`.
void offer_activations(Graph& graph, const std::vector<HookedNode>& hooked) {
  for (const auto& [before, activation, after] : hooked) {
    Node* offer = graph.create(c10::Symbol::fromQualString("dimbit::offer"), before->inputs(), 2);
    offer->outputs()[1]->setType(c10::BoolType::get());
    offer->insertBefore(before);
    before->output()->replaceAllUsesWith(offer->outputs()[0]);
    before->destroy();
    Node* branch = graph.create(c10::prim::If, {offer->outputs()[1]}, 1);
    branch->insertBefore(activation);
    branch->output()->setType(after->output()->type());
    after->output()->replaceAllUsesWith(branch->output());
    branch->addBlock()->registerOutput(offer->outputs()[0]);
    torch::jit::Block* plain = branch->addBlock();
    activation->moveBefore(plain->return_node());
    after->moveBefore(plain->return_node());
    plain->registerOutput(after->output());
  }
}

} // namespace

torch::jit::Module deep_copy(const torch::jit::Module& module) {
  // Recorded, the copies would be functions of the originals instead of leaves.
  at::NoGradGuard guard;
  auto copy = module.deepcopy();
  auto originals = module.parameters();
  auto parameter = originals.begin();
  for (at::Tensor copied : copy.parameters()) copied.set_requires_grad((*parameter++).requires_grad());
  return copy;
}

// A loaded module, laid out channels last unless it is `contiguous`, with its instrumented forward.
struct Network {
  torch::jit::Module module;
  bool contiguous = false;
  std::string survey_json;
  Code hooked;
  Code observed;
  std::vector<c10::IValue> defaults;

  explicit Network(torch::jit::Module loaded) : module(std::move(loaded)) {
    check_forward(module);
    lay_out_channels_last(module);
    let_views_copy(module);
    const auto& arguments = module.get_method("forward").function().getSchema().arguments();
    for (size_t i = 2; i < arguments.size(); ++i) defaults.push_back(*arguments[i].default_value());
    auto plain = inline_forward(module);
    auto watched = plain->copy();
    const Survey found = survey(*watched);
    survey_json = to_json(found);
    observe(*watched, found);
    observed = Code(watched, "forward");
    fold_into_layers(*plain);
    offer_activations(*plain, instrument(*plain));
    hooked = Code(plain, "forward");
  }

  // An input in the layout of the parameters.
  at::Tensor laid_out(const at::Tensor& input) const { return contiguous ? input.contiguous() : channels_last(input); }

  // Lays out the parameters, unless they lie so.
  void lay_out(bool contiguously) {
    if (contiguously == contiguous) return;
    (contiguously ? lay_out_contiguous : lay_out_channels_last)(module);
    contiguous = contiguously;
  }

  // `packing`: takes care of what layers keep of codecs' outputs, if it isn't null.
  at::Tensor run(const Code& code, const at::Tensor& input, ActiveHook hook, Packing* packing) {
    HookGuard guard(hook);
    Stack stack{module._ivalue(), laid_out(input)};
    stack.insert(stack.end(), defaults.begin(), defaults.end());
    torch::jit::InterpreterState(code).run(stack);
    TORCH_CHECK(stack.size() == 1, "`forward` returned ", stack.size(), " values");
    at::Tensor output = first_tensor(stack.back());
    if (packing) packing->release(output);
    return output;
  }
};

const torch::jit::Module& module_of(const Network& network) {
  return network.module;
}

// The generator of random numbers of a device: the CPU for an index below 0, else that CUDA device.
static at::Generator generator_of(int device_index) {
  const auto device = device_index < 0 ? at::Device(at::kCPU) : at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(device_index));
  return at::globalContext().defaultGenerator(device);
}

} // namespace dimbit

using dimbit::guarded;
using dimbit::Network;

extern "C" {

int dimbit_network_load(const char* path, Network** out, char** error) {
  return guarded(error, [&] { *out = new Network(torch::jit::load(path, at::kCPU)); });
}

int dimbit_network_copy(const Network* network, Network** out, char** error) {
  return guarded(error, [&] { *out = new Network(dimbit::deep_copy(network->module)); });
}

void dimbit_network_free(Network* network) {
  delete network;
}

int dimbit_network_save(const Network* network, const char* path, char** error) {
  return guarded(error, [&] {
    auto copy = dimbit::deep_copy(network->module);
    dimbit::lay_out_contiguous(copy);
    copy.save(path);
  });
}

int dimbit_network_survey(const Network* network, char** json, char** error) {
  return guarded(error, [&] { *json = dimbit::copy_text(network->survey_json); });
}

// Calls back with each parameter, then each buffer; the callee takes the tensor over and shares its storage.
int dimbit_network_tensors(
    const Network* network, void (*visit)(void* context, const char* name, int is_parameter, at::Tensor* tensor), void* context, char** error) {
  return guarded(error, [&] {
    for (const auto& item : network->module.named_parameters(/*recurse=*/true)) visit(context, item.name.c_str(), 1, new at::Tensor(item.value));
    for (const auto& item : network->module.named_buffers(/*recurse=*/true)) visit(context, item.name.c_str(), 0, new at::Tensor(item.value));
  });
}

// `freeze_norm`: batch normalisation stays in evaluation (running statistics) while the rest trains.
int dimbit_network_train(Network* network, int train, int freeze_norm, char** error) {
  return guarded(error, [&] {
    network->module.train(train != 0);
    network->lay_out(/*contiguously=*/false);
    if (!train || !freeze_norm) return;
    for (auto module : network->module.modules()) {
      const auto name = module.type()->name();
      if (name && name->name().find("BatchNorm") != std::string::npos) module.train(false);
    }
  });
}

// Evaluation, contiguous on the CPU: convolutions add up more exactly so.
int dimbit_network_evaluate(Network* network, char** error) {
  return guarded(error, [&] {
    network->module.train(false);
    const auto parameters = network->module.parameters();
    network->lay_out(parameters.size() > 0 && (*parameters.begin()).is_cpu());
  });
}

int dimbit_network_to(Network* network, int device_type, int device_index, char** error) {
  return guarded(error, [&] {
    const auto device = device_type < 0 ? at::Device(at::kCPU) : at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(device_index));
    network->module.to(device);
  });
}

// `packed`: if it isn't null, layers keep codes of what codecs return, and it tells of how many codecs.
int dimbit_network_run(
    Network* network, int observed, int64_t* packed, const at::Tensor* input, dimbit::Hook hook, void* context, at::Tensor** output, char** error) {
  return guarded(error, [&] {
    std::optional<dimbit::Packing> packing;
    if (packed) packing.emplace();
    *output = new at::Tensor(network->run(observed ? network->observed : network->hooked, *input, {hook, context}, packing ? &*packing : nullptr));
    if (packing) *packed = packing->count();
  });
}

// The module's own forward, without this project's graph: what the instrumented one is compared against.
int dimbit_network_run_plain(Network* network, const at::Tensor* input, at::Tensor** output, char** error) {
  return guarded(error, [&] { *output = new at::Tensor(dimbit::first_tensor(network->module.forward({network->laid_out(*input)}))); });
}

int dimbit_set_deterministic(int enabled, char** error) {
  return guarded(error, [&] {
    // cuBLAS is reproducible only with a workspace of fixed size, and reads this once.
    if (enabled) setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", /*overwrite=*/0);
    at::globalContext().setDeterministicAlgorithms(enabled != 0, /*warn_only=*/true);
    // Filling fresh memory costs a pass over it and serves only who reads it before writing.
    at::globalContext().setDeterministicFillUninitializedMemory(false);
    at::globalContext().setDeterministicCuDNN(enabled != 0);
    at::globalContext().setBenchmarkCuDNN(enabled == 0);
    at::globalContext().setFlushDenormal(true);
  });
}

// All that the random numbers to come depend on, as bytes.
int dimbit_generator_state(int device_index, at::Tensor** state, char** error) {
  return guarded(error, [&] {
    auto generator = dimbit::generator_of(device_index);
    std::lock_guard<std::mutex> lock(generator.mutex());
    *state = new at::Tensor(generator.get_state());
  });
}

int dimbit_set_generator_state(int device_index, const at::Tensor* state, char** error) {
  return guarded(error, [&] {
    auto generator = dimbit::generator_of(device_index);
    std::lock_guard<std::mutex> lock(generator.mutex());
    generator.set_state(*state);
  });
}

// Most bytes that tensors have taken on an accelerator at once, as libtorch's allocator counts them.
int dimbit_peak_memory(int device_index, int64_t* bytes, char** error) {
  return guarded(error, [&] {
    const auto total = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
    *bytes = at::accelerator::getDeviceStats(static_cast<c10::DeviceIndex>(device_index)).allocated_bytes[total].peak;
  });
}

// The libtorch that this was built against; lives as long as the program.
const char* dimbit_libtorch_version() {
  return TORCH_VERSION;
}

} // extern "C"
