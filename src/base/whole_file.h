#pragma once

#include <string_view>

#include "base/file.h"

/// Creates files that appear whole and durable, or not at all. As in file.h, every failure is Error{kIo}.
namespace isr {

/// Names of temporary files begin with this. A crash may leave one behind. Listings skip them, and the owner of the
/// directory may remove old ones.
inline constexpr std::string_view kTempFilePrefix = ".tmp-";

/// Replaces path atomically and durably: temp, fsync, rename, fsync directory.
void replace_file(const fs::path& path, ByteView bytes, mode_t mode = 0600);
enum class CreateResult { kCreated, kExists };
/// Creates path atomically and durably unless it exists: temp, fsync, link (or a rename that replaces nothing), fsync
/// directory. When many race for one name, exactly one gets kCreated.
CreateResult create_file(const fs::path& path, ByteView bytes, mode_t mode = 0600);

}  // namespace isr
