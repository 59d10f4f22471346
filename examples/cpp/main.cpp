// Runs every kernel of a library on a small problem of its own and compares two rows of each with
// plain loops. float32 libraries for the CPU run as they are; see CMakeLists.txt for how to build.
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/extra/module.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <new>
#include <random>
#include <utility>
#include <vector>

#include "prefill.h"

namespace ffi = tvm::ffi;

// The kernels load whole vectors, from memory that begins where one may.
template <typename T>
struct Aligned {
  using value_type = T;
  static constexpr std::align_val_t kAlignment{PREFILL_ALIGNMENT};
  Aligned() = default;
  template <typename U>
  Aligned(const Aligned<U>&) {}
  T* allocate(size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), kAlignment)); }
  void deallocate(T* memory, size_t) { ::operator delete(memory, kAlignment); }
  template <typename U>
  bool operator==(const Aligned<U>&) const { return true; }
  template <typename U>
  bool operator!=(const Aligned<U>&) const { return false; }
};
using Floats = std::vector<float, Aligned<float>>;
using Ints = std::vector<int32_t, Aligned<int32_t>>;

// A dense tensor over memory of the caller's.
struct View {
  View(void* data, DLDataType dtype, std::vector<int64_t> sizes) : shape(std::move(sizes)) {
    tensor.data = data;
    tensor.device = DLDevice{static_cast<DLDeviceType>(PREFILL_DEVICE_TYPE), 0};
    tensor.ndim = static_cast<int32_t>(shape.size());
    tensor.dtype = dtype;
    tensor.shape = shape.data();
    tensor.strides = nullptr;
    tensor.byte_offset = 0;
  }
  View(const View&) = delete;

  std::vector<int64_t> shape;
  DLTensor tensor;
};

static Floats Normal(int64_t size, int seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  Floats values(size);
  for (float& value : values) value = normal(generator);
  return values;
}

static bool PaddedLeft(const PrefillKernel& kernel) {
  return std::strcmp(kernel.padding, "left") == 0;
}

// Largest difference between row `row` of head `head` of sequence `b` and plain loops.
static double RowError(const PrefillKernel& kernel, const Floats& query, const Floats& key,
                       const Floats& value, const Floats& bias, const Floats& output,
                       int64_t valid, int64_t b, int64_t row, int64_t head) {
  const int64_t dim = kernel.head_dim, group = kernel.num_qo_heads / kernel.num_kv_heads;
  // The valid columns, of which the window takes those around the row's own. Rows and columns are
  // padded alike and equally many are valid, so that the first valid ones belong together.
  const bool left = PaddedLeft(kernel);
  int64_t first = left ? kernel.kv_len - valid : 0, end = first + valid;
  const int64_t own = left ? row + kernel.kv_len - kernel.qo_len : row;
  if (kernel.window_left >= 0) first = std::max(first, own - kernel.window_left);
  if (kernel.window_right >= 0) end = std::min(end, own + kernel.window_right + 1);
  const float* q = &query[((b * kernel.qo_len + row) * kernel.num_qo_heads + head) * dim];
  auto at = [&](const Floats& rows, int64_t column) {
    return &rows[((b * kernel.kv_len + column) * kernel.num_kv_heads + head / group) * dim];
  };
  std::vector<double> scores, sums(dim, 0.0);
  for (int64_t column = first; column < end; ++column) {
    double dot = 0;
    for (int64_t d = 0; d < dim; ++d) dot += double(q[d]) * at(key, column)[d];
    double score = dot * kernel.sm_scale;
    if (kernel.softcap != 0) score = kernel.softcap * std::tanh(score / kernel.softcap);
    if (kernel.bias != nullptr) {
      const int64_t distances = kernel.qo_len + kernel.kv_len - 1;
      score += bias[head * distances + column - row + kernel.qo_len - 1];
    }
    scores.push_back(score);
  }
  const double highest = *std::max_element(scores.begin(), scores.end());
  double total = 0;
  for (int64_t column = first; column < end; ++column) {
    const double weight = std::exp(scores[column - first] - highest);
    total += weight;
    for (int64_t d = 0; d < dim; ++d) sums[d] += weight * at(value, column)[d];
  }
  double error = 0;
  const float* o = &output[((b * kernel.qo_len + row) * kernel.num_qo_heads + head) * dim];
  for (int64_t d = 0; d < dim; ++d) error = std::max(error, std::abs(o[d] - sums[d] / total));
  return error;
}

// Whether padding of the output, which was NaN before, is what the kernel says.
static bool PaddingIsRight(const PrefillKernel& kernel, const Floats& output,
                           const Ints& valid_lens) {
  const bool untouched = std::strcmp(kernel.padding_output, "untouched") == 0;
  const int64_t elements = kernel.num_qo_heads * kernel.head_dim;
  for (int64_t b = 0; b < kernel.batch; ++b)
    for (int64_t row = 0; row < kernel.qo_len; ++row) {
      const int64_t place = PaddedLeft(kernel) ? kernel.qo_len - 1 - row : row;
      if (place < valid_lens[b]) continue;
      const float* o = &output[(b * kernel.qo_len + row) * elements];
      for (int64_t i = 0; i < elements; ++i)
        if (untouched ? !std::isnan(o[i]) : o[i] != 0) return false;
    }
  return true;
}

static double Run(const ffi::Module& module, const PrefillKernel& kernel) {
  const int64_t batch = kernel.batch, qo_len = kernel.qo_len, kv_len = kernel.kv_len;
  const int64_t heads = kernel.num_qo_heads, dim = kernel.head_dim;
  Floats query = Normal(batch * qo_len * heads * dim, 1);
  Floats key = Normal(batch * kv_len * kernel.num_kv_heads * dim, 2);
  Floats value = Normal(batch * kv_len * kernel.num_kv_heads * dim, 3);
  const int64_t distances = qo_len + kv_len - 1;
  Floats bias = Normal(heads * distances, 4);
  Floats output(query.size(), NAN), lse(batch * qo_len * heads, NAN);
  // The first sequence is full, each further one a position shorter.
  Ints valid_lens(batch);
  for (int64_t b = 0; b < batch; ++b)
    valid_lens[b] = static_cast<int32_t>(std::max<int64_t>(1, std::min(qo_len, kv_len) - b));

  const DLDataType float32{kDLFloat, 32, 1}, int32{kDLInt, 32, 1};
  View q(query.data(), float32, {batch, qo_len, heads, dim});
  View k(key.data(), float32, {batch, kv_len, kernel.num_kv_heads, dim});
  View v(value.data(), float32, {batch, kv_len, kernel.num_kv_heads, dim});
  View lens(valid_lens.data(), int32, {batch});
  View added(bias.data(), float32, {heads, distances});
  View o(output.data(), float32, {batch, qo_len, heads, dim});
  View l(lse.data(), float32, {batch, qo_len, heads});
  ffi::Function call = module->GetFunction(kernel.symbol).value();
  if (kernel.bias != nullptr)
    call(&q.tensor, &k.tensor, &v.tensor, &lens.tensor, &added.tensor, &o.tensor, &l.tensor);
  else
    call(&q.tensor, &k.tensor, &v.tensor, &lens.tensor, &o.tensor, &l.tensor);

  if (!PaddingIsRight(kernel, output, valid_lens)) return INFINITY;
  const bool left = PaddedLeft(kernel);
  double error = 0;
  for (int64_t b : {int64_t{0}, batch - 1}) {
    const int64_t valid = valid_lens[b];
    const int64_t first = left ? qo_len - valid : 0, last = first + valid - 1;
    for (const auto& [row, head] : {std::pair{first, int64_t{0}}, std::pair{last, heads - 1}}) {
      error = std::max(
          error, RowError(kernel, query, key, value, bias, output, valid, b, row, head));
    }
  }
  return error;
}

int main() {
  ffi::Module module = ffi::Module::LoadFromFile(PREFILL_LIBRARY);
  int failures = 0;
  for (PrefillKernel kernel : kPrefillKernels) {
    if (kernel.batch == 0) {  // serves every shape
      kernel.batch = 3;
      kernel.qo_len = kernel.kv_len = 77;
    }
    if (PREFILL_DEVICE_TYPE != kDLCPU || std::strcmp(kernel.dtype, "float32") != 0) {
      std::printf("%s: this example runs float32 on the CPU\n", kernel.symbol);
      continue;
    }
    if (std::strcmp(kernel.layout, "padded") != 0) {
      std::printf("%s: this example runs padded sequences\n", kernel.symbol);
      continue;
    }
    const double error = Run(module, kernel);
    const bool right = error < 1e-4;
    failures += !right;
    std::printf("%s: error %.1e, %s\n", kernel.symbol, error, right ? "right" : "WRONG");
  }
  return failures != 0;
}
