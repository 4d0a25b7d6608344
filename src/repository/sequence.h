#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "repository/blob_store.h"

/// Numbered blobs PREFIX/%016d: heads, lock records, keyboxes, each written by
/// put_new() of the next number.
namespace isr {

/// The greatest number that a name can hold, so that n + 1 never overflows.
inline constexpr std::uint64_t kMaxSequence = 9'999'999'999'999'999;

/// "parcels/4f…/heads" and 41 give "parcels/4f…/heads/0000000000000041".
std::string sequence_name(std::string_view prefix, std::uint64_t n);
/// The inverse of sequence_name(). nullopt for other names and for 0.
std::optional<std::uint64_t> sequence_number(std::string_view prefix, std::string_view name);
/// Lists the names below `prefix` and returns the greatest `count` of their numbers, descending. Reads only the first
/// part of a list that is too long (list_page.h). Empty when the store cannot list.
std::vector<std::uint64_t> listed_numbers(BlobStore& store, std::string_view prefix, std::size_t count);
/// The greatest `count` numbers, descending: those in the list, and a few after it that the store already returns. When
/// the store cannot list them all, searches for the greatest by requesting single numbers, which needs a sequence
/// without holes, and assumes that the numbers directly below it exist.
std::vector<std::uint64_t> newest_numbers(BlobStore& store, std::string_view prefix, std::size_t count);
/// The first of newest_numbers(); 0 when there is none.
std::uint64_t newest_in_sequence(BlobStore& store, std::string_view prefix);

}  // namespace isr
