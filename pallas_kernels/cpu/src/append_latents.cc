#include "attention.h"

namespace lynx {

void append_latents(const AppendLatents& op) {
  // Copying the few rows of a decode step takes less time than waking another thread.
  constexpr int64_t kGrain = 64;
  for_each(op.batch, kGrain, [&](int64_t row) {
    const Place place = place_of(op.blocks, row, op.positions[row], op.capacity);
    if (!place.inside) return;
    const int64_t to = (place.row * op.capacity + place.position) * op.row_bytes;
    std::memcpy(static_cast<char*>(op.cache) + to, static_cast<const char*>(op.latent) + row * op.row_bytes,
                op.row_bytes);
  });
}

}  // namespace lynx
