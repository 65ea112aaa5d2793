// Model folders, as nanomd writes them, for programs without Python:
//   model.safetensors   the weights, float32
//   config.json         dimensions, the labels of the states, the time between frames
// Both are read with suspicion: every size, name, shape and number is checked before it is used.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "nanomd/model.h"

namespace nanomd {

// A safetensors file in memory. Only float32 tensors can be read; others are listed but refused.
class TensorFile {
 public:
  // Throws InputError, naming the file and what is wrong with it.
  explicit TensorFile(const std::string& path);
  const TensorMap& tensors() const { return views_; }

 private:
  std::vector<float> data_;  // of all tensors
  TensorMap views_;
};

struct LoadedModel {
  std::shared_ptr<const Model> model;
  std::vector<std::int64_t> state_symbols;  // [n_states], label of every token
  double frame_interval = 1.0;              // time of one step, in frame_unit
  std::string frame_unit = "frame";
};

// round(2^32 / (2 pi) base^(-i / (d_head / 2))): turns per frame of each rotated pair, in units of 2^-32.
std::vector<std::uint32_t> rope_multipliers(int d_head, double base);

// Throws InputError for a folder that is missing, damaged or of another format.
LoadedModel load_model_folder(const std::string& path);

}  // namespace nanomd
