// A device made of host memory and emulated threads. For tests.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

#include "emulator.h"
#include "engine_common.h"
#include "kernels.h"
#include "tile.h"

#if defined(__SANITIZE_ADDRESS__)
#  include <sanitizer/asan_interface.h>
#endif

namespace nanomd::cuda {

namespace {

class EmulatedQueue final : public Queue {
 public:
  explicit EmulatedQueue(std::uint64_t order_seed) : order_seed_(order_seed) {}

  void upload(void* device, const void* pinned, std::size_t bytes) override { std::memcpy(device, pinned, bytes); }

  void launch(const Arguments& arguments, int n_tiles) override {
    for (int i = 0; i < arguments.n_steps; ++i) fill_angles(arguments, i);
    const Layout& layout = arguments.layout;
    for (int tile = 0; tile < n_tiles; ++tile) {
      Emulator emulator(layout.ranks, layout.shared.total_bytes, order_seed_);
      emulator.run([&](Emulator::Thread& thread) {
        with_tile_constants(layout, [&](auto tiles, auto group, auto precise) {
          RolloutTile<Emulator::Thread, tiles(), group(), precise()>(thread, arguments, tile).run();
        });
      });
      const SharedLayout& m = layout.shared;
      emulator.check_unwritten({m.act, m.hid, m.logits > m.hid ? m.logits : m.hid, m.drafts, m.resident, m.total_bytes},
                               m.guard);
    }
  }

  void observe(const ObserveArguments& arguments) override {
    const auto add = [&](std::size_t cell, std::int64_t amount) { arguments.table[cell] += amount; };
    for (int i = 0; i < arguments.n_trajs; ++i) {
      for (int lag = 0; lag <= arguments.n_lags; ++lag)
        for (int begin = 0; begin < arguments.n_steps; begin += kStepsPerThread)
          observe_pairs(arguments, lag, i, begin, std::min(begin + kStepsPerThread, arguments.n_steps), add);
      observe_sets(arguments, i, add);
    }
  }

  void download(int, void* pinned, const void* device, std::size_t bytes) override {
    std::memcpy(pinned, device, bytes);
  }
  void wait(int) override {}

 private:
  std::uint64_t order_seed_;
};

class EmulatedPlatform final : public Platform {
 public:
  explicit EmulatedPlatform(const EmulationOptions& options) : options_(options) {}
  std::string name() const override { return "cuda/emulated"; }
  std::size_t shared_limit() const override { return options_.shared_limit; }
  int multiprocessors() const override { return options_.multiprocessors; }
  int largest_cluster() const override { return options_.largest_cluster; }
  std::size_t free_memory() const override { return options_.free_memory; }
  void* allocate(std::size_t bytes) override {
    void* memory = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
    if (memory == nullptr) throw std::bad_alloc();
    std::memset(memory, 0xFF, bytes);  // NaN: what nothing wrote must not be read
#if defined(__SANITIZE_ADDRESS__)
    ASAN_POISON_MEMORY_REGION(static_cast<char*>(memory) + bytes, (bytes + 255) / 256 * 256 - bytes);
#endif
    return memory;
  }
  void free(void* memory) noexcept override { std::free(memory); }
  void* allocate_pinned(std::size_t bytes) override { return allocate(bytes); }
  void free_pinned(void* memory) noexcept override { std::free(memory); }
  // Nothing may come from a null pointer on a device, but not in memcpy.
  void copy_in(void* device, const void* host, std::size_t bytes) override {
    if (bytes > 0) std::memcpy(device, host, bytes);
  }
  void copy_out(void* host, const void* device, std::size_t bytes) override {
    if (bytes > 0) std::memcpy(host, device, bytes);
  }
  std::unique_ptr<Queue> make_queue() override { return std::make_unique<EmulatedQueue>(options_.order_seed); }

 private:
  EmulationOptions options_;
};

}  // namespace

}  // namespace nanomd::cuda

namespace nanomd {

std::unique_ptr<CudaEngine> make_emulated_cuda_engine(const ModelShape& shape, const TensorMap& tensors,
                                                      const std::vector<std::uint32_t>& rope_multipliers,
                                                      const CudaOptions& options, const EmulationOptions& emulation) {
  return cuda::make_tiled_engine(std::make_shared<cuda::EmulatedPlatform>(emulation), shape, tensors, rope_multipliers,
                                 options, 64);
}

}  // namespace nanomd
