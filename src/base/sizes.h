#pragma once

#include <cstdint>
#include <string>

namespace isr {

/// "1.5G", "10GiB", "4096": bytes, binary units (GB means GiB). Error{kUsage}.
std::uint64_t parse_size(const std::string& text);
/// "1.5 GiB".
std::string format_size(std::uint64_t bytes);

}  // namespace isr
