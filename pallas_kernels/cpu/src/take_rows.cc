#include "take_rows.h"

#include "rows.h"

namespace lynx {

void take_rows(const TakeRows& op) {
  // Copying the few rows of a decode step takes less time than waking another thread.
  constexpr int64_t kGrain = 64;
  for_each(op.count, kGrain, [&](int64_t i) {
    const int64_t id = std::clamp<int64_t>(op.ids[i], 0, op.rows - 1);
    std::memcpy(static_cast<char*>(op.taken) + i * op.row_bytes, static_cast<const char*>(op.table) + id * op.row_bytes,
                op.row_bytes);
  });
}

}  // namespace lynx
