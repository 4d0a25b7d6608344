// Forks: heads that lost the race for their number, kept beside the chain under forks/HOST-DIGITS/n.
#include <fmt/format.h>

#include <algorithm>

#include "repository/chain.h"
#include "repository/sequence.h"

namespace isr {
namespace {

constexpr int kAttempts = 5;

constexpr std::size_t kForkDigits = 4;

/// HOST-DIGITS/N
struct ForkName {
  std::string host;
  std::string digits;
  std::uint64_t n = 0;
};

ForkName parse_fork_name(const std::string& text) {
  const auto only = [](std::string_view part, std::string_view characters, std::size_t min, std::size_t max) {
    return part.size() >= min && part.size() <= max && part.find_first_not_of(characters) == std::string_view::npos;
  };
  const auto slash = std::min(text.find('/'), text.size());
  const auto dash = std::min(text.rfind('-', slash), slash);
  ForkName name;
  name.host = text.substr(0, dash);
  name.digits = text.substr(std::min(dash + 1, slash), slash - std::min(dash + 1, slash));
  const std::string number = text.substr(std::min(slash + 1, text.size()));
  const bool whole = only(name.host, "abcdefghijklmnopqrstuvwxyz0123456789._-", 1, 64) &&
                     only(name.digits, "0123456789abcdef", kForkDigits, 2 * Sha256::kSize) &&
                     only(number, "0123456789", 1, 16) && number != std::string(number.size(), '0');
  if (!whole) throw Error(ErrorKind::kUsage, "a fork is named like desk-42-3f2a/41");
  name.n = std::stoull(number);
  return name;
}

}  // namespace

void check_fork_name(const std::string& fork) { parse_fork_name(fork); }

std::string Chain::keep_fork(std::uint64_t n, ByteView blob) {
  const StoredHead ours = decode(to_bytes(blob), n);
  const std::string digits = to_hex(ours.hash.view());
  for (std::size_t count = kForkDigits; count <= kAttempts * kForkDigits; count += kForkDigits) {
    const std::string fork = fmt::format("{}-{}", ours.head.host, digits.substr(0, count));
    const std::string place = sequence_name(fmt::format("{}/forks/{}", id_, fork), n);
    const PutResult put = store_->put_new(place, blob);
    // The caller may delete its own copy after this, so read the fork back.
    const auto kept = store_->get(place);
    if (kept && std::ranges::equal(kept->bytes, blob)) return fmt::format("{}/{}", fork, n);
    if (put == PutResult::kCreated) {
      throw Error(ErrorKind::kCorrupt, fmt::format("{}: {} says that it keeps fork {}, but does not give it", id_,
                                                   store_->describe(), fork));
    }
  }
  throw Error(ErrorKind::kCorrupt, fmt::format("{}: {} says that every name is taken", id_, store_->describe()));
}

std::optional<StoredHead> Chain::read_fork(const std::string& fork) {
  const ForkName name = parse_fork_name(fork);
  auto blob = store_->get(sequence_name(fmt::format("{}/forks/{}-{}", id_, name.host, name.digits), name.n));
  if (!blob) return std::nullopt;
  StoredHead stored = decode(std::move(blob->bytes), name.n);
  if (stored.head.host != name.host || !to_hex(stored.hash.view()).starts_with(name.digits)) {
    throw Error(ErrorKind::kCorrupt, fmt::format("{}: the place of fork {} holds another head", id_, fork));
  }
  return stored;
}

void Chain::verify_base(StoredHead newest, std::uint64_t n, const Sha256& hash) {
  if (n == 0) return;
  const auto base = ancestor(std::move(newest), n);
  if (base && base->hash == hash) return;
  throw Error(
      ErrorKind::kHistory,
      fmt::format("{}: the work is based on another version {} than the one in the history that this host trusts", id_,
                  n));
}

std::optional<std::vector<std::string>> Chain::forks() {
  const std::string prefix = id_ + "/forks/";
  const auto names = store_->list(prefix);
  if (!names) return std::nullopt;
  std::vector<std::string> forks;
  for (const auto& name : *names) {
    const auto slash = name.rfind('/');
    const auto n = sequence_number(name.substr(0, slash), name);
    if (slash < prefix.size() || !n) continue;
    forks.push_back(fmt::format("{}/{}", name.substr(prefix.size(), slash - prefix.size()), *n));
  }
  return forks;
}

}  // namespace isr
