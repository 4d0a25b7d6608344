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
/// The greatest `count` numbers that are listed, descending; of a list that is too long (list_page.h), of its first
/// part. Empty where the store cannot list.
std::vector<std::uint64_t> listed_numbers(BlobStore& store, std::string_view prefix, std::size_t count);
/// The greatest `count` numbers, descending: those of the list, and a few behind it that the store has already. Where
/// the store cannot list so many, the greatest is searched by asking for single ones, in a sequence without holes, and
/// those directly below are guessed.
std::vector<std::uint64_t> newest_numbers(BlobStore& store, std::string_view prefix, std::size_t count);
/// The greatest number of newest_numbers(); 0 when there is none.
std::uint64_t newest_in_sequence(BlobStore& store, std::string_view prefix);

}  // namespace isr
