#include "repository/sequence.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>

namespace isr {
namespace {

constexpr std::size_t kDigits = 16;
constexpr int kMaxProbes = 16;  // behind the greatest number that is listed

bool present(BlobStore& store, std::string_view prefix, std::uint64_t n) {
  return store.stat(sequence_name(prefix, n)).has_value();
}

// Doubles until a number is absent, then bisects: 2 log2(n) questions.
std::uint64_t probe(BlobStore& store, std::string_view prefix) {
  std::uint64_t there = 0;
  std::uint64_t absent = 1;
  while (absent <= kMaxSequence / 2 && present(store, prefix, absent)) {
    there = absent;
    absent *= 2;
  }
  while (absent - there > 1) {
    const std::uint64_t middle = there + (absent - there) / 2;
    (present(store, prefix, middle) ? there : absent) = middle;
  }
  return there;
}

/// nullopt when the store cannot list, or not so many names.
std::optional<std::vector<std::string>> list_of(BlobStore& store, std::string_view prefix) {
  try {
    return store.list(std::string(prefix) + "/");
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kUnsupported) throw;
    return std::nullopt;
  }
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

std::vector<std::uint64_t> newest_numbers(BlobStore& store, std::string_view prefix, std::size_t count) {
  std::vector<std::uint64_t> numbers;
  for (const auto& name : list_of(store, prefix).value_or(std::vector<std::string>())) {
    if (const auto n = sequence_number(prefix, name)) numbers.push_back(*n);
  }
  std::sort(numbers.begin(), numbers.end(), std::greater<>());
  if (numbers.size() > count) numbers.resize(count);
  return numbers;
}

std::uint64_t newest_in_sequence(BlobStore& store, std::string_view prefix) {
  const auto names = list_of(store, prefix);
  if (!names) return probe(store, prefix);
  std::uint64_t newest = 0;
  for (const auto& name : *names) {
    newest = std::max(newest, sequence_number(prefix, name).value_or(0));
  }
  // A list may lag behind what the store already gives.
  for (int probes = 0; newest < kMaxSequence && present(store, prefix, newest + 1); ++newest) {
    if (++probes > kMaxProbes) {
      throw Error(ErrorKind::kCorrupt,
                  fmt::format("{}: {} says that it has what it does not list", prefix, store.describe()));
    }
  }
  return newest;
}

}  // namespace isr
