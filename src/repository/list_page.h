#pragma once

#include <string>
#include <vector>

namespace isr {

/// No page of a list is larger in the form that encode_list_page() gives it.
inline constexpr std::size_t kMaxListPageSize = 1U << 20U;
/// A list without end is read so far; the names then take some 50 MiB of memory.
inline constexpr std::size_t kMaxListPages = 256;
inline constexpr std::size_t kMaxListedNames = 250'000;
inline constexpr std::size_t kMaxListedBytes = 16U << 20U;

struct ListPage {
  std::vector<std::string> names;
  bool more = false;  ///< for the rest ask again, with the last name
};

/// Fills a page up to kMaxListPageSize.
class ListPageBuilder {
 public:
  /// False: there is no room, and the page says that there is more.
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
  /// Error{kUnsupported} when the list has become longer than lists may be.
  void add(const ListPage& page);

 private:
  std::string what_;
  std::size_t pages_ = 0;
  std::size_t names_ = 0;
  std::size_t bytes_ = 0;
};

}  // namespace isr
