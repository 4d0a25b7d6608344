#pragma once

#include <string>
#include <vector>

namespace isr {

/// The largest size of a page in bytes, as encode_list_page() writes it.
inline constexpr std::size_t kMaxListPageSize = 1U << 20U;
/// Limits how much of an endless list is read. The names then take some 50 MiB of memory.
inline constexpr std::size_t kMaxListPages = 256;
inline constexpr std::size_t kMaxListedNames = 250'000;
inline constexpr std::size_t kMaxListedBytes = 16U << 20U;

struct ListPage {
  std::vector<std::string> names;
  bool more = false;  ///< there are more names: ask again with the last name
};

/// Fills a page up to kMaxListPageSize.
class ListPageBuilder {
 public:
  /// Returns false when there is no room; the page then says that there is more.
  bool add(std::string name);
  ListPage take() { return std::move(page_); }

 private:
  ListPage page_;
  std::size_t size_ = 0;
};

/// Counts the pages of a list. `what` names the list in errors.
class ListLimit {
 public:
  explicit ListLimit(std::string what) : what_(std::move(what)) {}
  /// Error{kUnsupported} when the list is longer than allowed.
  void add(const ListPage& page);

 private:
  std::string what_;
  std::size_t pages_ = 0;
  std::size_t names_ = 0;
  std::size_t bytes_ = 0;
};

}  // namespace isr
