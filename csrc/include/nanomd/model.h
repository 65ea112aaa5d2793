// The weights of a nano-GPT, packed for the CPU engine. The mathematics:
//   qkv = x Wqkv^T + b, rows [q heads | k heads | v heads]; query head h reads key/value head h / (n_head / n_kv_head)
//   norm = pre:   a = x + Attn(LN1 x),   x' = a + MLP(LN2 a),   logits = LN_f(x) Wh^T + bh
//   norm = post:  a = LN1(x + Attn x),   x' = LN2(a + MLP a),   logits = x Wh^T + bh
//   markov head:  logits += markov[current token]
// With groups of states, group g the tokens [start_g, start_g + size_g), the head decides twice:
//   p(j) = softmax(h Wg^T + bg + markov[current token])[g(j)] * softmax over the members of g(j) of (h Wh^T + bh)[j]
// h as above, markov with a column for every group. A step then costs d (G + size of the group drawn), not d V.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "nanomd/half.h"

namespace nanomd {

// What is kept in 16 bits (IEEE half precision). Activations, sums, softmax and logits are fp32 throughout.
enum class Precision {
  kFp32,       // nothing
  kFp16Cache,  // keys and values
  kFp16,       // keys and values, and the weights of the linear maps
};
inline constexpr int kPrecisions = 3;

// "fp32", "fp16-cache", "fp16": the names that every engine takes and reports. InputError for any other.
Precision precision_named(const std::string& name);
const char* precision_name(Precision precision);

// Plain numbers, which a launch of kernels can take along.
struct NetworkShape {
  int n_states = 0;  // V
  int d_model = 0;   // d
  int n_layer = 0;   // L
  int n_head = 0;
  int n_kv_head = 0;       // divides n_head
  int context_length = 0;  // W
  int d_mlp = 0;
  bool pre_norm = true;
  bool gelu = true;               // else ReLU
  bool learned_position = false;  // else rotary
  bool markov_head = false;

  int d_head() const { return d_model / n_head; }
  int d_kv() const { return n_kv_head * d_head(); }
  int d_qkv() const { return d_model + 2 * d_kv(); }
  // Frames of the past that a ring rollout can see, the present one included.
  long receptive_field() const { return static_cast<long>(n_layer) * (context_length - 1) + 1; }
};

struct ModelShape : NetworkShape {
  std::vector<int> group_sizes;  // of the groups of states, in token order; empty without

  bool grouped() const { return !group_sizes.empty(); }
  // What the head decides at every step: among the states, or among their groups.
  int n_choices() const;
  int largest_group() const;  // 0 without groups
  void check_groups() const;  // throws InputError for sizes that do not fit n_states
};

// A tensor of the caller: row-major float32.
struct TensorView {
  const float* data = nullptr;
  std::vector<std::size_t> shape;
};
using TensorMap = std::map<std::string, TensorView>;

// Memory aligned to cache lines, on large pages where it is big: caches of many megabytes are walked in every step.
class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  explicit AlignedBuffer(std::size_t n_floats);  // zeroed
  float* data() const { return memory_.get(); }
  std::size_t size() const { return size_; }

 private:
  struct Free {
    void operator()(float* memory) const;
  };
  std::unique_ptr<float, Free> memory_;
  std::size_t size_ = 0;
};

inline constexpr int kLanes = 16;  // trajectories in a group, and outputs in a packed block
inline int round_up(int n, int multiple = kLanes) { return (n + multiple - 1) / multiple * multiple; }

// A linear map y = W x + b with outputs in blocks of 16, padded with zeros: weight[block][n_in][16], bias[block][16].
// The lanes kernel broadcasts single weights, the columns kernel loads 16 at once: one layout for both.
struct PackedLinear {
  const float* weight = nullptr;  // rounded to half precision where `half` is given: both kernels see the same numbers
  const Half* half = nullptr;     // the same, half the bytes; null unless the precision is kFp16
  const float* bias = nullptr;
  int n_in = 0;
  int n_blocks = 0;
};

struct LayerNormWeights {
  const float* weight = nullptr;  // [d], zero-padded to a multiple of 16
  const float* bias = nullptr;    // [d], zero-padded
};

struct LayerWeights {
  PackedLinear qkv, proj, up, down;
  LayerNormWeights norm1, norm2;
};

// Immutable once built; shared by all threads.
class Model {
 public:
  // Copies and packs the tensors, named as in a model file. Throws InputError for a missing or misshapen tensor or a
  // value that is not finite, and UnsupportedError for what the CPU engine cannot run, or where a weight, key or value
  // could overflow the 16 bits that `precision` asks for.
  Model(const ModelShape& shape, const TensorMap& tensors, const std::vector<std::uint32_t>& rope_multipliers,
        Precision precision = Precision::kFp32);

  ModelShape shape;
  Precision precision;
  std::vector<std::uint32_t> rope_multipliers;  // [d_head / 2], units of 2 pi / 2^32; empty for learned positions
  const float* embedding = nullptr;             // [V][d]
  const float* position = nullptr;              // [W][d], or null
  std::vector<LayerWeights> layers;
  LayerNormWeights norm;              // before the head; unused with post-norm
  PackedLinear head;                  // [n_choices] outputs
  const float* markov = nullptr;      // [V][n_choices], row = current token; or null
  std::vector<PackedLinear> members;  // [G], the states of each group; without weights where there is one
  std::vector<int> group_start;       // [G], the first of them; both empty without groups

 private:
  const float* keep(const float* data, std::size_t n);
  PackedLinear linear(const TensorMap& tensors, const std::string& name, std::size_t n_out, std::size_t n_in);
  void pack_members(const TensorMap& tensors);

  std::vector<AlignedBuffer> storage_;
};

// Bounds every key and value that the model can produce, whatever it reads; throws UnsupportedError if one could
// overflow half precision. Called where the precision asks for it.
void check_cache_range(const Model& model);

}  // namespace nanomd
