#pragma once

#include <cstdint>

namespace lynx {

// Bytes a second at which the threads read memory that no cache holds: the best of several passes over `bytes` of it.
// 0 where there is no such memory to be had.
double read_bandwidth(int64_t bytes, int passes);

}  // namespace lynx
