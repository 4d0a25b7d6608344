#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace isr {

/// Makes any text fit for a message: quotes, control characters, invalid UTF-8 and characters that change the text
/// direction become \xNN.
std::string escaped(std::string_view text);
/// The length of the text without a UTF-8 character that is cut off at its end.
std::size_t whole_characters(std::string_view text);
/// The candidate most similar to `word`, "" when none is similar.
std::string nearest(std::string_view word, const std::vector<std::string>& candidates);

}  // namespace isr
