// Checking and packing of weights.
#include "nanomd/model.h"

#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

#include "nanomd/check.h"

namespace nanomd {

namespace {

constexpr std::size_t kLargePage = std::size_t{2} << 20;

std::string text(const std::vector<std::size_t>& shape) {
  std::string out = "(";
  for (std::size_t i = 0; i < shape.size(); ++i) out += (i ? ", " : "") + std::to_string(shape[i]);
  return out + ")";
}

const float* find(const TensorMap& tensors, const std::string& name, const std::vector<std::size_t>& shape) {
  const auto entry = tensors.find(name);
  check(entry != tensors.end(), "tensor ", name, " is missing");
  check(entry->second.shape == shape, "tensor ", name, " must have shape ", text(shape), ", got ",
        text(entry->second.shape));
  std::size_t size = 1;
  for (const std::size_t n : shape) size *= n;
  for (std::size_t i = 0; i < size; ++i)
    check(std::isfinite(entry->second.data[i]), "tensor ", name, " holds a value that is not finite, at index ", i);
  return entry->second.data;
}

AlignedBuffer copy_padded(const float* data, std::size_t n) {
  AlignedBuffer buffer((n + kLanes - 1) / kLanes * kLanes);
  std::memcpy(buffer.data(), data, n * sizeof(float));
  return buffer;
}

// Rounds in place, and returns the same numbers in 16 bits.
AlignedBuffer round_to_half(const std::string& name, AlignedBuffer& numbers) {
  AlignedBuffer packed((numbers.size() + 1) / 2);
  Half* half = reinterpret_cast<Half*>(packed.data());
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    float& value = numbers.data()[i];
    if (std::abs(value) > kLargestHalf)
      throw UnsupportedError(
          join("tensor ", name, ".weight holds ", value, ", too large for 16 bits (65504); use precision fp32"));
    half[i] = narrow(value);
    value = widen(half[i]);
  }
  return packed;
}

void check_shape(const ModelShape& s) {
  check(s.n_states >= 2 && s.n_states <= 65536, "n_states must be in [2, 65536], got ", s.n_states);
  check(s.n_layer >= 1, "n_layer must be at least 1, got ", s.n_layer);
  check(s.n_head >= 1 && s.d_model >= 8 && s.d_model % s.n_head == 0 && s.d_head() % 8 == 0,
        "d_model / n_head must be a multiple of 8, got ", s.d_model, " / ", s.n_head);
  check(s.n_kv_head >= 1 && s.n_head % s.n_kv_head == 0, "n_kv_head must divide n_head = ", s.n_head, ", got ",
        s.n_kv_head);
  check(s.context_length >= 2, "context_length must be at least 2, got ", s.context_length);
  check(s.d_mlp >= 8 && s.d_mlp % 8 == 0, "d_mlp must be a positive multiple of 8, got ", s.d_mlp);
  if (s.d_model > 8192 || s.context_length > 65536 || s.n_layer > 1024 || s.d_mlp > 65536)
    throw UnsupportedError("the cpu engine is limited to d_model 8192, context_length 65536 and 1024 layers");
  s.check_groups();
}

// A row of a linear map, where its block of sixteen begins at `block`.
void pack_row(const float* weight, std::size_t n_in, float* block, std::size_t lane) {
  for (std::size_t i = 0; i < n_in; ++i) block[i * kLanes + lane] = weight[i];
}

constexpr const char* kPrecisionNames[kPrecisions] = {"fp32", "fp16-cache", "fp16"};  // in the order of the enum

}  // namespace

Precision precision_named(const std::string& name) {
  for (int i = 0; i < kPrecisions; ++i)
    if (name == kPrecisionNames[i]) return static_cast<Precision>(i);
  throw InputError("precision must be one of fp32, fp16-cache, fp16, got " + name);
}

const char* precision_name(Precision precision) { return kPrecisionNames[static_cast<int>(precision)]; }

void AlignedBuffer::Free::operator()(float* memory) const { std::free(memory); }

AlignedBuffer::AlignedBuffer(std::size_t n_floats) : size_(n_floats) {
  const std::size_t alignment = n_floats * sizeof(float) >= kLargePage ? kLargePage : 64;
  const std::size_t bytes = (n_floats * sizeof(float) + alignment - 1) / alignment * alignment;
  float* memory = static_cast<float*>(std::aligned_alloc(alignment, bytes == 0 ? alignment : bytes));
  if (memory == nullptr) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
  if (alignment == kLargePage) (void)madvise(memory, bytes, MADV_HUGEPAGE);  // advice only: a refusal changes nothing
#endif
  std::memset(memory, 0, bytes);
  memory_.reset(memory);
}

void ModelShape::check_groups() const {
  if (!grouped()) return;
  check(group_sizes.size() >= 2 && group_sizes.size() <= static_cast<std::size_t>(n_states),
        "group_sizes must name from 2 to n_states = ", n_states, " groups, got ", group_sizes.size());
  std::int64_t total = 0;
  for (const int size : group_sizes) {
    check(size >= 1, "group_sizes must be at least 1 each, got ", size);
    total += size;
  }
  check(total == n_states, "group_sizes must add up to n_states = ", n_states, ", got ", total);
}

int ModelShape::n_choices() const { return grouped() ? static_cast<int>(group_sizes.size()) : n_states; }

int ModelShape::largest_group() const {
  return grouped() ? *std::max_element(group_sizes.begin(), group_sizes.end()) : 0;
}

const float* Model::keep(const float* data, std::size_t n) {
  storage_.push_back(copy_padded(data, n));
  return storage_.back().data();
}

PackedLinear Model::linear(const TensorMap& tensors, const std::string& name, std::size_t n_out, std::size_t n_in) {
  const float* weight = find(tensors, name + ".weight", {n_out, n_in});
  const float* bias = find(tensors, name + ".bias", {n_out});
  PackedLinear packed;
  packed.n_in = static_cast<int>(n_in);
  packed.n_blocks = round_up(static_cast<int>(n_out)) / kLanes;
  AlignedBuffer buffer(static_cast<std::size_t>(packed.n_blocks) * n_in * kLanes);
  for (std::size_t o = 0; o < n_out; ++o)
    pack_row(weight + o * n_in, n_in, buffer.data() + o / kLanes * n_in * kLanes, o % kLanes);
  if (precision == Precision::kFp16) {
    storage_.push_back(round_to_half(name, buffer));
    packed.half = reinterpret_cast<const Half*>(storage_.back().data());
  }
  packed.weight = buffer.data();
  storage_.push_back(std::move(buffer));
  packed.bias = keep(bias, n_out);
  return packed;
}

// The rows of the head, each group's from a block of its own on; all in one piece of memory, for large pages. A group
// of one is sure of its state: it has no blocks, so that even the smallest groups take at most eight times their rows.
void Model::pack_members(const TensorMap& tensors) {
  const std::size_t d = shape.d_model, V = shape.n_states;
  const float* weight = find(tensors, "head.weight", {V, d});
  const float* bias = find(tensors, "head.bias", {V});
  std::size_t n_blocks = 0;
  int start = 0;
  for (const int size : shape.group_sizes) {
    PackedLinear group;
    group.n_in = shape.d_model;
    group.n_blocks = size == 1 ? 0 : round_up(size) / kLanes;
    members.push_back(group);
    group_start.push_back(start);
    n_blocks += static_cast<std::size_t>(group.n_blocks);
    start += size;
  }
  AlignedBuffer weights(n_blocks * d * kLanes), biases(n_blocks * kLanes);
  std::size_t block = 0;
  for (std::size_t g = 0; g < members.size(); block += static_cast<std::size_t>(members[g++].n_blocks)) {
    float* own = weights.data() + block * d * kLanes;
    const std::size_t first = group_start[g];
    members[g].weight = own;
    members[g].bias = biases.data() + block * kLanes;
    if (members[g].n_blocks == 0) continue;
    for (std::size_t o = 0; o < static_cast<std::size_t>(shape.group_sizes[g]); ++o) {
      pack_row(weight + (first + o) * d, d, own + o / kLanes * d * kLanes, o % kLanes);
      biases.data()[block * kLanes + o] = bias[first + o];
    }
  }
  if (precision == Precision::kFp16) {
    storage_.push_back(round_to_half("head", weights));
    const Half* half = reinterpret_cast<const Half*>(storage_.back().data());
    for (PackedLinear& group : members) group.half = half + (group.weight - weights.data());
  }
  storage_.push_back(std::move(weights));
  storage_.push_back(std::move(biases));
}

Model::Model(const ModelShape& shape_in, const TensorMap& tensors, const std::vector<std::uint32_t>& multipliers,
             Precision precision_in)
    : shape(shape_in), precision(precision_in), rope_multipliers(multipliers) {
  check_shape(shape);
  const std::size_t d = shape.d_model, V = shape.n_states;
  const auto linear = [&](const std::string& name, std::size_t n_out, std::size_t n_in) {
    return this->linear(tensors, name, n_out, n_in);
  };
  const auto layer_norm = [&](const std::string& name) {
    return LayerNormWeights{keep(find(tensors, name + ".weight", {d}), d), keep(find(tensors, name + ".bias", {d}), d)};
  };

  embedding = keep(find(tensors, "embedding.weight", {V, d}), V * d);
  if (shape.learned_position) {
    const std::size_t W = shape.context_length;
    position = keep(find(tensors, "position.weight", {W, d}), W * d);
    rope_multipliers.clear();
  } else {
    check(rope_multipliers.size() == static_cast<std::size_t>(shape.d_head() / 2),
          "rope_multipliers must have d_head / 2 = ", shape.d_head() / 2, " entries, got ", rope_multipliers.size());
  }
  for (int l = 0; l < shape.n_layer; ++l) {
    const std::string block = "blocks." + std::to_string(l) + ".";
    LayerWeights layer;
    layer.qkv = linear(block + "attention.qkv", shape.d_qkv(), d);
    layer.proj = linear(block + "attention.proj", d, d);
    layer.up = linear(block + "mlp.up", shape.d_mlp, d);
    layer.down = linear(block + "mlp.down", d, shape.d_mlp);
    layer.norm1 = layer_norm(block + "norm1");
    layer.norm2 = layer_norm(block + "norm2");
    layers.push_back(layer);
  }
  if (shape.pre_norm) norm = layer_norm("norm");
  const std::size_t n_choices = shape.n_choices();
  head = linear(shape.grouped() ? "group" : "head", n_choices, d);
  if (shape.grouped()) pack_members(tensors);
  if (shape.markov_head) markov = keep(find(tensors, "markov.weight", {V, n_choices}), V * n_choices);
  if (precision != Precision::kFp32) check_cache_range(*this);
}

}  // namespace nanomd
