#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace isr {

/// Where the kernel may put memory on a disk so that it can be read without a key:
/// swap areas in use, but those in memory (zram without a disk behind it) and
/// those on dm-crypt, also below LVM or a file system. One that nothing is known of counts.
/// Error{kIo} when the kernel's list cannot be read.
std::vector<std::string> plaintext_swap(const std::filesystem::path& swaps = "/proc/swaps",
                                        const std::filesystem::path& sys = "/sys");

}  // namespace isr
