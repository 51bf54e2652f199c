#pragma once

#include <cstdint>

namespace lynx {

// Copies rows of a table. An id outside of the table takes the first or the last row.
struct TakeRows {
  int64_t rows, row_bytes, count;
  const void* table;   // [rows], row_bytes each
  const int32_t* ids;  // [count]
  void* taken;         // [count], row_bytes each
};

void take_rows(const TakeRows& op);

}  // namespace lynx
