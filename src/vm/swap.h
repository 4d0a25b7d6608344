#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace isr {

/// The swap areas in use through which memory may reach a disk and be read without a key. Not among them: areas in
/// memory (zram without a disk behind it) and on dm-crypt, also below LVM or a file system. An area of unknown kind
/// counts as readable. Error{kIo} when the kernel's list cannot be read.
std::vector<std::string> plaintext_swap(const std::filesystem::path& swaps = "/proc/swaps",
                                        const std::filesystem::path& sys = "/sys");

}  // namespace isr
