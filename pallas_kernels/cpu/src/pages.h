#pragma once

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>

#include "threads.h"

namespace lynx {

// Memory in pages of 2 MB where the system has them, filled, so that each page is there.
class Pages {
 public:
  explicit Pages(int64_t bytes) {
    constexpr int64_t kHugePage = 2 << 20;
    const int64_t pages = (bytes + kHugePage - 1) / kHugePage;
    data_ = static_cast<char*>(std::aligned_alloc(kHugePage, static_cast<size_t>(pages * kHugePage)));
    if (data_ == nullptr) return;
#if defined(MADV_HUGEPAGE)
    madvise(data_, static_cast<size_t>(pages * kHugePage), MADV_HUGEPAGE);
#endif
    // A small number in every type of weight.
    parallel(pages, [&](int64_t page, int64_t) { std::memset(data_ + page * kHugePage, 0x3c, kHugePage); });
  }
  ~Pages() { std::free(data_); }
  Pages(const Pages&) = delete;
  Pages& operator=(const Pages&) = delete;

  // Null where there is no such memory.
  char* data() const { return data_; }

 private:
  char* data_ = nullptr;
};

// At least `bytes` of them, for one measurement after another: they are kept until the process ends. Hosts take free
// memory from their guests (a balloon), which would slow down whatever is measured next.
class LentPages {
 public:
  explicit LentPages(int64_t bytes) : lock_(mutex_) {
    if (bytes <= size_) return;
    kept_.reset();
    kept_ = std::make_unique<const Pages>(bytes);
    size_ = kept_->data() == nullptr ? 0 : bytes;
  }

  // Null where there is no such memory.
  const char* data() const { return kept_ == nullptr ? nullptr : kept_->data(); }

 private:
  inline static std::mutex mutex_;
  inline static std::unique_ptr<const Pages> kept_;
  inline static int64_t size_ = 0;
  const std::lock_guard<std::mutex> lock_;
};

}  // namespace lynx
