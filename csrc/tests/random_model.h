// Random models of any shape, and the engines over them.
#pragma once

#include <cmath>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "emulation/emulated_engine.h"
#include "nanomd/cuda_engine.h"

namespace test_models {

using namespace nanomd;

struct RandomModel {
  ModelShape shape;
  std::map<std::string, std::vector<float>> values;
  TensorMap views;
  std::vector<std::uint32_t> multipliers;

  explicit RandomModel(const ModelShape& s) : shape(s) {
    std::mt19937 random(7);
    const auto add = [&](const std::string& name, std::vector<std::size_t> size, float scale, float mean = 0.0f) {
      std::normal_distribution<float> normal(mean, scale);
      std::size_t n = 1;
      for (const std::size_t k : size) n *= k;
      std::vector<float>& data = values[name];
      for (std::size_t i = 0; i < n; ++i) data.push_back(normal(random));
      views[name] = {data.data(), size};
    };
    const std::size_t d = s.d_model, V = s.n_states, W = s.context_length, m = s.d_mlp, qkv = s.d_qkv();
    const float scale = 1.0f / std::sqrt(static_cast<float>(d));
    const auto norm = [&](const std::string& name) {
      add(name + ".weight", {d}, 0.1f, 1.0f);
      add(name + ".bias", {d}, 0.1f);
    };
    const auto linear = [&](const std::string& name, std::size_t out, std::size_t in) {
      add(name + ".weight", {out, in}, scale);
      add(name + ".bias", {out}, 0.1f);
    };
    add("embedding.weight", {V, d}, 1.0f);
    if (s.learned_position) add("position.weight", {W, d}, 0.5f);
    for (int l = 0; l < s.n_layer; ++l) {
      const std::string block = "blocks." + std::to_string(l) + ".";
      linear(block + "attention.qkv", qkv, d);
      linear(block + "attention.proj", d, d);
      linear(block + "mlp.up", m, d);
      linear(block + "mlp.down", d, m);
      norm(block + "norm1");
      norm(block + "norm2");
    }
    if (s.pre_norm) norm("norm");
    linear("head", V, d);
    const std::size_t n_choices = s.n_choices();
    if (s.grouped()) linear("group", n_choices, d);
    if (s.markov_head) add("markov.weight", {V, n_choices}, 0.5f);
    for (int i = 0; i < s.d_head() / 2 && !s.learned_position; ++i)
      multipliers.push_back(static_cast<std::uint32_t>(683565276.0 * std::pow(1000.0, -i / (s.d_head() / 2.0))));
  }

  std::unique_ptr<CudaEngine> emulated(const CudaOptions& options = {}, const EmulationOptions& emulation = {}) const {
    return make_emulated_cuda_engine(shape, views, multipliers, options, emulation);
  }
  std::unique_ptr<RolloutEngine> cpu(const std::string& isa = "", int column_limit = -1,
                                     Precision precision = Precision::kFp32) const {
    return make_cpu_engine(std::make_shared<Model>(shape, views, multipliers, precision), isa, column_limit);
  }
  std::vector<std::uint16_t> tokens(std::size_t n, unsigned seed = 3) const {
    std::mt19937 random(seed);
    std::vector<std::uint16_t> result(n);
    for (std::uint16_t& token : result) token = static_cast<std::uint16_t>(random() % shape.n_states);
    return result;
  }
};

inline ModelShape make_shape(int V, int d, int L, int heads, int kv, int W, int mlp) {
  ModelShape s;
  s.n_states = V, s.d_model = d, s.n_layer = L, s.n_head = heads, s.n_kv_head = kv, s.context_length = W, s.d_mlp = mlp;
  return s;
}
inline ModelShape paper_like(int V, int d, int L, int heads, int W) {
  ModelShape s = make_shape(V, d, L, heads, heads, W, d);
  s.pre_norm = false, s.gelu = false, s.learned_position = true;
  return s;
}

}  // namespace test_models
