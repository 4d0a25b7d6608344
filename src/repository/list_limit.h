#pragma once

#include <string>
#include <string_view>

namespace isr {

/// What list() gives at most; so many names take some 50 MiB of memory.
inline constexpr std::size_t kMaxListedNames = 250'000;
inline constexpr std::size_t kMaxListedBytes = 16U << 20U;

/// Counts the names of a list; add() throws Error{kUnsupported} above the limits. `what` names the list.
class ListLimit {
 public:
  explicit ListLimit(std::string what) : what_(std::move(what)) {}
  void add(std::string_view name);

 private:
  std::string what_;
  std::size_t names_ = 0;
  std::size_t bytes_ = 0;
};

}  // namespace isr
