// Tensors whose memory nobody else can reach.
#include "network.h"

namespace {

// Whether this is the only reference to the storage and no weak one could become another. One atomic read tells both, and
// whoever let go of it before has then done all that it did to the values.
bool sole(const c10::Storage& storage) {
  auto pointer = c10::intrusive_ptr<c10::StorageImpl>::reclaim(storage.unsafeGetStorageImpl());
  const bool result = pointer.is_uniquely_owned();
  pointer.release();
  return result;
}

bool is_plain(const at::Tensor& tensor) {
  return tensor.defined() && tensor.layout() == at::kStrided && tensor.device().is_cpu() && tensor.scalar_type() == at::kFloat &&
      tensor.has_storage() && tensor.is_contiguous() && !tensor.is_neg() && !tensor._is_zerotensor() && !tensor.requires_grad();
}

} // namespace

extern "C" {

// Sets `*values` to the values of a contiguous float32 tensor on the CPU that nothing but `tensor` holds, else to null.
int dimbit_unshared_values(const at::Tensor* tensor, float** values, char** error) {
  return dimbit::guarded(error, [&] {
    const bool unshared = is_plain(*tensor) && tensor->getIntrusivePtr().is_uniquely_owned() && sole(tensor->storage());
    *values = unshared ? tensor->mutable_data_ptr<float>() : nullptr;
  });
}

} // extern "C"
