#include "base/text.h"

#include <catch2/catch.hpp>
#include <set>

namespace isr {
namespace {

TEST_CASE("whole_characters() ends the text at the end of a character", "[base]") {
  const std::string text = "a\u00e4\u2026\U0001f600";  // of 1, 2, 3 and 4 bytes
  const std::set<std::size_t> ends{0, 1, 3, 6, 10};
  for (std::size_t size = 0; size <= text.size(); ++size) {
    CHECK(whole_characters(std::string_view(text).substr(0, size)) == *std::prev(ends.upper_bound(size)));
  }
  // What is no UTF-8 is not held back for ever.
  CHECK(whole_characters("\x80\x80\x80\x80") == 4);
  CHECK(whole_characters("\xff") == 0);
  CHECK(whole_characters("\xffzzz") == 4);
}

}  // namespace
}  // namespace isr
