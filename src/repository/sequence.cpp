#include "repository/sequence.h"

#include <fmt/format.h>

#include <deque>
#include <functional>

namespace isr {
namespace {

constexpr std::size_t kDigits = 16;
constexpr std::size_t kMaxProbes = 16;  // numbers tried after the greatest listed one

bool present(BlobStore& store, std::string_view prefix, std::uint64_t n) {
  return store.stat(sequence_name(prefix, n)).has_value();
}

/// Doubles the step until a number is absent, then bisects. Takes 2 log2(n) requests.
std::uint64_t search(BlobStore& store, std::string_view prefix, std::uint64_t there) {
  std::uint64_t step = 1;
  while (step <= kMaxSequence - there && present(store, prefix, there + step)) {
    there += step;
    step *= 2;
  }
  for (step /= 2; step > 0; step /= 2) {
    if (step <= kMaxSequence - there && present(store, prefix, there + step)) there += step;
  }
  return there;
}

struct Listed {
  std::deque<std::uint64_t> greatest;  ///< ascending, as the list is
  bool whole = true;                   ///< false: the store cannot list, or its list is too long
};

Listed list_numbers(BlobStore& store, std::string_view prefix, std::size_t count) {
  Listed listed;
  const auto take = [&](const ListPage& page) {
    for (const std::string& name : page.names) {
      if (const auto n = sequence_number(prefix, name)) listed.greatest.push_back(*n);
      if (listed.greatest.size() > count) listed.greatest.pop_front();
    }
  };
  try {
    listed.whole = store.list_pages(std::string(prefix) + "/", take);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kUnsupported) throw;
    listed.whole = false;
  }
  return listed;
}

}  // namespace

std::string sequence_name(std::string_view prefix, std::uint64_t n) {
  if (n == 0 || n > kMaxSequence) throw Error(ErrorKind::kUsage, fmt::format("{} has no number {}", prefix, n));
  return fmt::format("{}/{:016}", prefix, n);
}

std::optional<std::uint64_t> sequence_number(std::string_view prefix, std::string_view name) {
  if (name.size() != prefix.size() + 1 + kDigits || !name.starts_with(prefix) || name[prefix.size()] != '/') {
    return std::nullopt;
  }
  std::uint64_t n = 0;
  for (const char c : name.substr(prefix.size() + 1)) {
    if (c < '0' || c > '9') return std::nullopt;
    n = n * 10 + static_cast<std::uint64_t>(c - '0');
  }
  if (n == 0) return std::nullopt;
  return n;
}

std::vector<std::uint64_t> listed_numbers(BlobStore& store, std::string_view prefix, std::size_t count) {
  const Listed listed = list_numbers(store, prefix, count);
  return {listed.greatest.rbegin(), listed.greatest.rend()};
}

std::vector<std::uint64_t> newest_numbers(BlobStore& store, std::string_view prefix, std::size_t count) {
  Listed listed = list_numbers(store, prefix, count);
  std::deque<std::uint64_t>& numbers = listed.greatest;
  if (!listed.whole) {
    const bool true_so_far = !numbers.empty() && present(store, prefix, numbers.back());
    const std::uint64_t newest = search(store, prefix, true_so_far ? numbers.back() : 0);
    numbers.clear();
    for (std::uint64_t n = newest; n > 0 && numbers.size() < count; --n) numbers.push_front(n);
  }
  // The list may lag behind blobs that the store already returns.
  for (std::size_t probe = 0; listed.whole && probe < kMaxProbes; ++probe) {
    const std::uint64_t next = numbers.empty() ? 1 : numbers.back() + 1;
    if (next > kMaxSequence || !present(store, prefix, next)) break;
    numbers.push_back(next);
    if (numbers.size() > count) numbers.pop_front();
  }
  return {numbers.rbegin(), numbers.rend()};
}

std::uint64_t newest_in_sequence(BlobStore& store, std::string_view prefix) {
  const auto numbers = newest_numbers(store, prefix, 1);
  return numbers.empty() ? 0 : numbers.front();
}

}  // namespace isr
