// What CUDA this build and this machine offer. Never throws: a machine without a GPU is a normal machine.
#pragma once

#include <string>
#include <vector>

namespace nanomd {

struct CudaDevice {
  std::string name;
  int major = 0, minor = 0;  // compute capability
  int multiprocessors = 0;
  unsigned long long memory = 0;  // bytes
};

struct CudaInfo {
  bool built = false;  // was nvcc at hand when the module was built?
  int driver = 0;      // the newest CUDA that the driver knows, such as 13000; 0 without one
  std::vector<CudaDevice> devices;
  std::string reason;  // why there is no device; empty if there is one
};

CudaInfo cuda_info();

}  // namespace nanomd
