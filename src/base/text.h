#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace isr {

/// Quotes, control characters, bytes that are no UTF-8 and the characters that
/// change the direction of text as \xNN: any text, fit for a message.
std::string escaped(std::string_view text);
/// The length of the text without a UTF-8 character that is cut off at its end.
std::size_t whole_characters(std::string_view text);
/// The candidate nearest to `word`, "" when none is near.
std::string nearest(std::string_view word, const std::vector<std::string>& candidates);

}  // namespace isr
