// The CUDA kernels' tile code on the host: every thread of a block (or cluster of blocks) is a fibre, and barriers,
// shuffles and matrix instructions are what CUDA documents. For tests: it finds bad indices (with the sanitizers,
// exactly), reads of memory that nothing wrote (shared memory starts as NaN), barriers that not all threads reach, and
// missing barriers (fibres run in an order given by a seed, teams and ranks far apart: a result that changes with it is
// a race).
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <exception>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda/layout.h"
#include "cuda/words.h"
#include "nanomd/cuda_half.h"

namespace nanomd::cuda {

class Emulator {
 public:
  class Thread;
  using Body = std::function<void(Thread&)>;

  // Runs body once per thread of `ranks` blocks with `shared_bytes` each, until all return. order_seed 0: ascending
  // order. Blocks are of kThreads threads, or of as many for each of several teams, a team's memory `team_bytes` after
  // that of the one before.
  Emulator(int ranks, std::size_t shared_bytes, std::uint64_t order_seed, int teams = 1, std::size_t team_bytes = 0);
  void run(const Body& body);
  // Throws if any of the `length` bytes before the offset was written, in any block.
  void check_unwritten(std::size_t offset, std::size_t length) const;

 private:
  friend class Thread;
  enum class Wait { kReady, kWarp, kTeam, kAll, kDone };
  struct Fibre {
    ucontext_t context;
    jmp_buf jump;
    bool started = false;
    std::unique_ptr<char[]> stack;
    Wait wait = Wait::kReady;
  };
  struct Block {
    std::unique_ptr<unsigned char[]> shared;  // an exact allocation: the address sanitizer sees its end
    bool begun = false, ended = false;        // any of its threads
  };
  struct Warp {  // what lanes show each other
    double number[32];
    Words4 a[32];
    Words2 b[32];
  };

  static void enter(unsigned high, unsigned low);
  void resume(int fibre);
  void suspend(int fibre, Wait wait);
  bool run_team(int team);
  bool release(int begin, int end, Wait wait);
  std::uint32_t random();

  int ranks_, teams_;
  std::size_t shared_bytes_, team_bytes_;
  std::uint64_t order_;
  bool shuffle_;
  std::vector<Block> blocks_;
  std::vector<Fibre> fibres_;
  std::vector<Warp> warps_;
  ucontext_t scheduler_;
  jmp_buf scheduler_jump_;
  const Body* body_ = nullptr;
  std::exception_ptr error_;
  int running_ = -1;
  const void* scheduler_stack_ = nullptr;
  std::size_t scheduler_stack_size_ = 0;
};

// The execution policy of tile.h. Compare device_exec.cuh.
class Emulator::Thread {
 public:
  static constexpr bool kCluster = true;
  static constexpr Weights kWeights = Weights::kEither;

  Thread(Emulator& emulator, int index) : e_(emulator), index_(index) {}
  int rank() const { return index_ / kThreads / e_.teams_; }
  int ranks() const { return e_.ranks_; }
  int team() const { return index_ / kThreads % e_.teams_; }
  int teams() const { return e_.teams_; }
  int thread() const { return index_ % kThreads; }
  static int fresh(int value) { return value; }
  int warp() const { return thread() / 32; }
  int lane() const { return thread() % 32; }
  unsigned char* block_shared() const { return e_.blocks_[static_cast<std::size_t>(rank())].shared.get(); }
  unsigned char* shared() const { return block_shared() + static_cast<std::size_t>(team()) * e_.team_bytes_; }

  void sync_start() { e_.suspend(index_, Wait::kAll); }
  void sync() { e_.suspend(index_, Wait::kTeam); }
  void sync_all() { e_.suspend(index_, e_.teams_ > 1 ? Wait::kTeam : Wait::kAll); }
  void sync_warp() { e_.suspend(index_, Wait::kWarp); }

  // Every float and every int is a double too.
  template <class T>
  T shuffle(T value, int from) {
    Warp& warp = own_warp();
    warp.number[lane()] = static_cast<double>(value);
    sync_warp();
    const double other = warp.number[from];
    sync_warp();
    return static_cast<T>(other);
  }
  template <class T>
  T shuffle_xor(T value, int mask) {
    return shuffle(value, lane() ^ mask);
  }

  // mma.sync.m16n8k16, half inputs, float sums. Lane l = 4 g + c holds of A the words (row g, inputs 2c..), (row g+8,
  // 2c..), (row g, 2c+8..), (row g+8, 2c+8..); of B (inputs 2c.., column g), (2c+8.., column g); of C rows g, g and
  // g+8, g+8, columns 2c, 2c+1.
  void multiply_add(float (&acc)[4], const Words4& a, const Words2& b) {
    Warp& warp = own_warp();
    warp.a[lane()] = a;
    warp.b[lane()] = b;
    sync_warp();
    const int g = lane() / 4, c = lane() % 4;
    for (int i = 0; i < 4; ++i) {
      const int row = g + i / 2 * 8, column = 2 * c + i % 2;
      float sum = acc[i];
      for (int k = 0; k < 16; ++k) sum += element_a(warp, row, k) * element_b(warp, k, column);
      acc[i] = sum;
    }
    sync_warp();
  }

  Words4 load_constant(const unsigned char* from) const { return aligned_load<Words4>(from); }
  Words4 load_cache(const unsigned char* from) const { return aligned_load<Words4>(from); }
  Floats4 load_cache_floats(const unsigned char* from) const { return aligned_load<Floats4>(from); }
  template <class T>
  T constant(const T* from) const {
    return *from;
  }

  // To the same place of every rank's shared memory.
  template <class T>
  void publish(T* to, T value) {
    const std::size_t offset = static_cast<std::size_t>(reinterpret_cast<unsigned char*>(to) - block_shared());
    if (offset >= e_.shared_bytes_) throw std::runtime_error("published outside of shared memory");
    for (const Block& block : e_.blocks_) {
      if (!block.begun || (block.ended && e_.teams_ == 1))
        throw std::runtime_error("published to a block that does not run");
      std::memcpy(block.shared.get() + offset, &value, sizeof value);
    }
  }
  void raise(std::uint32_t* status, std::uint32_t bit) { *status |= bit; }
  void count(std::uint32_t* counter, std::uint32_t n) { *counter += n; }

  static float fma(float a, float b, float c) { return std::fma(a, b, c); }
  static float max(float a, float b) { return std::fmax(a, b); }
  static float sqrt(float x) { return std::sqrt(x); }
  static float exp(float x) { return std::exp(x); }
  static double exp(double x) { return std::exp(x); }
  static double log(double x) { return std::log(x); }
  static float exp2(float x) { return std::exp2(x); }

 private:
  template <class Wide>
  static Wide aligned_load(const unsigned char* from) {
    if (reinterpret_cast<std::uintptr_t>(from) % alignof(Wide) != 0) throw std::runtime_error("misaligned wide load");
    return load_wide<Wide>(from);
  }
  static float half_of(std::uint32_t word, int i) {
    return half_value(static_cast<std::uint16_t>(i == 0 ? word & 0xFFFFu : word >> 16));
  }
  static float element_a(const Warp& warp, int row, int k) {
    const Words4& a = warp.a[row % 8 * 4 + k % 8 / 2];
    const std::uint32_t word[4] = {a.x, a.y, a.z, a.w};
    return half_of(word[row / 8 + k / 8 * 2], k % 2);
  }
  static float element_b(const Warp& warp, int k, int column) {
    const Words2& b = warp.b[column * 4 + k % 8 / 2];
    return half_of(k < 8 ? b.x : b.y, k % 2);
  }
  Warp& own_warp() const { return e_.warps_[static_cast<std::size_t>(index_ / 32)]; }

  Emulator& e_;
  int index_;
};

}  // namespace nanomd::cuda
