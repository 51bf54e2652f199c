#pragma once

#include <cstdint>

namespace lynx {

// Rows of a table, copied; an id outside of it takes the row nearest to it.
struct TakeRows {
  int64_t rows, row_bytes, count;
  const void* table;   // [rows] of row_bytes each
  const int32_t* ids;  // [count]
  void* taken;         // [count] of row_bytes each
};

void take_rows(const TakeRows& op);

}  // namespace lynx
