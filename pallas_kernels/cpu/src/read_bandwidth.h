#pragma once

#include <cstdint>

namespace lynx {

// The speed in bytes per second at which all threads together read memory that no cache holds: the best of several
// passes over `bytes` bytes. 0 if the memory could not be allocated.
double read_bandwidth(int64_t bytes, int passes);

}  // namespace lynx
