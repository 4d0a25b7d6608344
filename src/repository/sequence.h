#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "repository/blob_store.h"

/// Numbered blobs PREFIX/%016d: heads, lock records, keyboxes, each written by
/// put_new() of the next number.
namespace isr {

/// The greatest number that a name can carry; so n + 1 never overflows.
inline constexpr std::uint64_t kMaxSequence = 9'999'999'999'999'999;

/// "parcels/4f…/heads" and 41 give "parcels/4f…/heads/0000000000000041".
std::string sequence_name(std::string_view prefix, std::uint64_t n);
/// The inverse; nullopt for other names and for 0.
std::optional<std::uint64_t> sequence_number(std::string_view prefix, std::string_view name);
/// The greatest number that is there; 0 when there is none. Uses a list where
/// the store has one; else it relies on a sequence that starts at 1 without holes.
/// Error{kCorrupt} when the store gives numbers without end that it does not list.
std::uint64_t newest_in_sequence(BlobStore& store, std::string_view prefix);
/// The greatest `count` numbers that are listed, falling; empty where the store cannot list so many names.
std::vector<std::uint64_t> newest_numbers(BlobStore& store, std::string_view prefix, std::size_t count);

}  // namespace isr
