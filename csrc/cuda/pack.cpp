#include "pack.h"

#include <cmath>
#include <cstring>
#include <functional>

#include "nanomd/check.h"
#include "nanomd/cuda_half.h"

namespace nanomd::cuda {

namespace {

const float* find(const TensorMap& tensors, const std::string& name, std::size_t size) {
  const auto entry = tensors.find(name);
  check(entry != tensors.end(), "tensor ", name, " is missing");
  std::size_t n = 1;
  for (const std::size_t length : entry->second.shape) n *= length;
  check(n == size, "tensor ", name, " must have ", size, " elements, got ", n);
  for (std::size_t i = 0; i < n; ++i)
    check(std::isfinite(entry->second.data[i]), "tensor ", name, " holds a value that is not finite, at index ", i);
  return entry->second.data;
}

class Packer {
 public:
  Packer(const Layout& layout, const TensorMap& tensors)
      : layout_(layout), tensors_(tensors), image_(layout.weights.total_bytes, 0) {}

  // Lane l of a fragment holds rows l/4 and l/4 + 8, and of the 16 inputs those numbered 4(l%4) .. +3. The instruction
  // numbers its inputs otherwise, but a sum does not care as long as both operands agree (see matrix.h).
  void linear(const LinearLayout& at, std::size_t base, const std::string& name, int n_out, int n_in,
              const std::function<int(int)>& source_row) {
    const float* weight = find(tensors_, name + ".weight", static_cast<std::size_t>(n_out) * n_in);
    const float* bias = find(tensors_, name + ".bias", static_cast<std::size_t>(n_out));
    auto* hi = reinterpret_cast<std::uint16_t*>(image_.data() + base + at.hi);
    auto* lo = reinterpret_cast<std::uint16_t*>(image_.data() + base + at.lo);
    float* packed_bias = reinterpret_cast<float*>(image_.data() + base + at.bias);
    for (int row = 0; row < at.n_blocks * kBlockRows; ++row) {
      const int source = source_row(row);
      packed_bias[row] = source < 0 ? 0.0f : bias[source];
    }
    std::size_t i = 0;
    for (int b = 0; b < at.n_blocks; ++b)
      for (int s = 0; s < at.k_steps; ++s)
        for (int lane = 0; lane < 32; ++lane)
          for (int half = 0; half < 8; ++half, ++i) {
            // Halves of a lane: (row g, first two), (row g + 8, first two), (row g, last two), (row g + 8, last two).
            const int source = source_row(b * kBlockRows + lane / 4 + (half / 2 % 2) * 8);
            const int k = s * kStepDepth + lane % 4 * 4 + half / 4 * 2 + half % 2;
            const float value = source < 0 || k >= n_in ? 0.0f : weight[static_cast<std::size_t>(source) * n_in + k];
            check(std::fabs(value) <= kLargestHalf, "tensor ", name, ".weight holds ", value,
                  ", beyond the range of 16-bit weights; use backend=\"cpu\"");
            hi[i] = half_bits(value);
            if (layout_.precise) lo[i] = half_bits(value - half_value(hi[i]));
          }
  }

  void copy(std::size_t at, const std::string& name, std::size_t n) {
    std::memcpy(image_.data() + at, find(tensors_, name, n), n * sizeof(float));
  }

  void norm(std::size_t at, const std::string& name, std::size_t d) {
    copy(at, name + ".weight", d);
    copy(at + d * sizeof(float), name + ".bias", d);
  }

  std::vector<unsigned char>& image() { return image_; }

 private:
  const Layout& layout_;
  const TensorMap& tensors_;
  std::vector<unsigned char> image_;
};

}  // namespace

int paired_row(int packed_row, int d_head, int n_heads_in_total) {
  const int pair = packed_row / 16 * 8 + packed_row % 8, half = d_head / 2;
  if (pair >= n_heads_in_total * half) return -1;
  return pair / half * d_head + pair % half + (packed_row % 16 >= 8 ? half : 0);
}

std::vector<unsigned char> pack_weights(const Layout& layout, const TensorMap& tensors,
                                        const std::vector<std::uint32_t>& rope_multipliers) {
  const NetworkShape& s = layout.shape;
  const WeightLayout& w = layout.weights;
  const std::size_t d = static_cast<std::size_t>(s.d_model), V = static_cast<std::size_t>(s.n_states);
  Packer packer(layout, tensors);
  const auto plain = [](int n_out) { return [n_out](int row) { return row < n_out ? row : -1; }; };
  const auto paired = [&](int row) { return paired_row(row, s.d_head(), s.n_head + 2 * s.n_kv_head); };
  for (int l = 0; l < s.n_layer; ++l) {
    const std::string block = "blocks." + std::to_string(l) + ".";
    const std::size_t base = w.layer_bytes * static_cast<std::size_t>(l);
    packer.linear(w.qkv, base, block + "attention.qkv", s.d_qkv(), s.d_model, paired);
    packer.linear(w.proj, base, block + "attention.proj", s.d_model, s.d_model, plain(s.d_model));
    packer.linear(w.up, base, block + "mlp.up", s.d_mlp, s.d_model, plain(s.d_mlp));
    packer.linear(w.down, base, block + "mlp.down", s.d_model, s.d_mlp, plain(s.d_model));
    packer.norm(base + w.norm1, block + "norm1", d);
    packer.norm(base + w.norm2, block + "norm2", d);
  }
  packer.linear(w.head, 0, "head", s.n_states, s.d_model, plain(s.n_states));
  if (s.pre_norm) packer.norm(w.norm, "norm", d);
  packer.copy(w.embedding, "embedding.weight", V * d);
  if (s.learned_position) packer.copy(w.position, "position.weight", static_cast<std::size_t>(s.context_length) * d);
  if (s.markov_head) packer.copy(w.markov, "markov.weight", V * V);
  if (!s.learned_position) {
    check(rope_multipliers.size() == static_cast<std::size_t>(s.d_head() / 2),
          "rope_multipliers must have d_head / 2 = ", s.d_head() / 2, " entries, got ", rope_multipliers.size());
    std::memcpy(packer.image().data() + w.multipliers, rope_multipliers.data(), rope_multipliers.size() * 4);
  }
  return std::move(packer.image());
}

}  // namespace nanomd::cuda
