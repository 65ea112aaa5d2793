// Walkers on the CPU: each a group of one trajectory, and up to twelve of them the columns of one step.
#pragma once

#include <memory>

#include "kernels.h"
#include "nanomd/walkers.h"

namespace nanomd {

std::unique_ptr<Walkers> make_cpu_walkers(std::shared_ptr<const Model> model, const Kernels& kernels,
                                          const WalkerOptions& options);

}  // namespace nanomd
