#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/bytes.h"
#include "base/clock.h"
#include "repository/list_page.h"

/// The parts of HTTP messages that client and server read and write themselves;
/// docs/formats/http.md has the protocol. All pure.
namespace isr {

/// Text without blanks and line ends at either end.
std::string_view without_blanks(std::string_view text);
/// Makes a server's text fit for a message: short, and safe for a terminal.
std::string printable_excerpt(std::string_view text);

/// RFC 9110 IMF-fixdate, e.g. "Mon, 23 Nov 2026 04:06:20 GMT".
std::string to_http_date(WallTime time);
/// The inverse of to_http_date(). Accepts exactly that form.
std::optional<WallTime> from_http_date(std::string_view text);

/// The pause in a Retry-After value, which is seconds or a date. Never negative.
std::optional<std::chrono::milliseconds> parse_retry_after(std::string_view text, WallTime now);

/// Parses "bytes FIRST-LAST/TOTAL". nullopt for anything else and for numbers that contradict each other.
struct ContentRange {
  std::uint64_t first = 0;
  std::uint64_t last = 0;
  std::uint64_t total = 0;
};
std::optional<ContentRange> parse_content_range(std::string_view text);

/// The meaning of a Range header for a blob of `size` bytes.
struct WholeBlob {};       ///< not a single byte range: RFC 9110 says to ignore it
struct NotSatisfiable {};  ///< begins at or after the end: 416
struct PartOfBlob {
  std::uint64_t first = 0;
  std::uint64_t last = 0;  ///< inclusive, below size
};
std::variant<WholeBlob, NotSatisfiable, PartOfBlob> parse_range(std::string_view header, std::uint64_t size);

/// One answer to a LIST request: one name a line, and a last line ".end" or ".more", so that a page that was cut short
/// is not taken for a whole one.
std::string encode_list_page(const ListPage& page);
/// Error{kCorrupt} unless each name begins with prefix and they ascend strictly from `after` (so that a loop over pages
/// ends). Names that no blob can have are left out.
ListPage parse_list_page(ByteView body, std::string_view prefix, std::string_view after);

}  // namespace isr
